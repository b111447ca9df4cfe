"""What is written down, one file per format: `model.yaml`, `registry.yaml`, references, recipes, golden cases.

`strictyaml.py` reads the YAML that strangers write; `fields.py` has what the formats share.
"""

"""File formats, one module each: `model.yaml`, `registry.yaml`, references, recipes, golden cases.

`strictyaml.py` reads YAML that strangers wrote; `fields.py` has what the formats share.
"""

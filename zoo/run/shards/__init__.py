"""`zoo batch`: a task over any number of inputs, cut into shards that processes work on, each written whole or not at
all. docs/decisions/0024-batch.md says why it is done like this.

inputs.py lists what there is and reads it; shard.py makes a shard, with the writers of formats.py; worker.py is the
process that does, pool.py keeps such processes busy, and folder.py knows what is in the folder of outputs.
"""

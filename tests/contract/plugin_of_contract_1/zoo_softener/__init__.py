"""A plugin as it was written for contract 1. Kept as it is: docs/decisions/0007-contract-versions.md."""

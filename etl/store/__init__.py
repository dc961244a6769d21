"""The store between split and load: parts, manifest, rejects, entities; specified in ``partitions/README.md``."""

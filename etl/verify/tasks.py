"""What is sent to workers. Nothing heavy is imported before a task arrives."""

from etl.verify.proofs import LeafTask, NamesTask, Proven


def prove_leaf(task: LeafTask) -> Proven:
    """Compare one leaf; see ``etl.verify.records``."""
    from etl.verify import records

    return records.prove_leaf(task)


def prove_names(task: NamesTask) -> Proven:
    """Compare the directory and the entities; see ``etl.verify.records``."""
    from etl.verify import records

    return records.prove_names(task)

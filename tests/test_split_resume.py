"""The identity of a split: what is done is not done again, what changed is named, what was finished is kept."""

import pytest
from split_support import cod, content, run, save

from etl import errors, splitter
from etl.config import SplitOptions
from etl.sources import inputs


def test_a_finished_split_is_not_done_again(tmp_path):
    """The same input gives the same folder, and its parts are not touched."""
    source = save(tmp_path / "powers.json", [cod()])
    options = SplitOptions(sources=(str(source),), store=str(tmp_path / "store"), executor="inline://")
    first = splitter.run(options)
    part = next((tmp_path / "store").rglob("*.arrow"))
    before = part.stat().st_mtime_ns
    second = splitter.run(options)

    assert (first.reused, second.reused) == (False, True)
    assert second.manifest == first.manifest
    assert part.stat().st_mtime_ns == before


def test_other_content_or_options_give_another_split(tmp_path):
    """What changes the result changes the folder; a copy elsewhere does not."""
    store = tmp_path / "store"
    source = save(tmp_path / "powers.json", [cod()])
    first = run(store, source).split_id
    copy = tmp_path / "other.json"
    copy.write_bytes(source.read_bytes())

    assert run(store, copy).split_id == first
    assert run(store, source, nul="reject").split_id != first
    assert run(store, source, game_version="i28").split_id != first
    assert run(store, save(source, [cod(accuracy=2.0)])).split_id != first


def test_a_changed_source_is_named(tmp_path):
    """By size and by content; the same content with a later date is no change, and neither is a file that is not here."""
    source = save(tmp_path / "powers.json", [cod()])
    found = run(tmp_path / "store", source)
    source.touch()

    assert splitter.source_changed(found) == []

    save(source, [cod(accuracy=2.0)])

    assert "other content" in splitter.source_changed(found)[0]

    save(source, [cod(), cod("Pool.Flight.Hover")])

    assert "bytes now" in splitter.source_changed(found)[0]

    source.unlink()

    assert splitter.source_changed(found) == []


def test_finished_ranges_are_kept_when_a_split_is_resumed(tmp_path, monkeypatch):
    """After a failure in the last range, only that one is read again."""
    monkeypatch.setattr(inputs, "RANGE_BYTES", 2_000)
    source = save(tmp_path / "powers.json", [cod(f"Pool.Set_{n}.Power") for n in range(60)])
    expected = content(run(tmp_path / "undisturbed", source))
    done = []
    real = splitter.tasks.split_range

    def failing(task):
        done.append(task.number)
        if task.number == 4 and len(done) == 5:
            raise errors.WorkerDied
        return real(task)

    monkeypatch.setattr(splitter.tasks, "split_range", failing)
    monkeypatch.setattr(splitter.tasks, "merge", fail_once(splitter.tasks.merge))
    with pytest.raises(errors.WorkerDied):
        run(tmp_path / "store", source)
    first = list(done)
    resumed = run(tmp_path / "store", source)

    assert len(set(first)) > 5
    assert len(done) - len(first) <= 1
    assert content(resumed) == expected
    assert not (tmp_path / "store" / resumed.split_id / "ranges").exists()


def fail_once(function):
    calls = []

    def failing(task):
        calls.append(task)
        if len(calls) == 1:
            raise errors.WorkerDied
        return function(task)

    return failing

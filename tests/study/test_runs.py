"""One run and its record, all runs of a study, and what is kept."""

import csv
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import joblib
import jsonschema
import pytest
import torch
from patience import PROGRAM
from test_architecture import imported_modules, name_of

import lab
from lab.errors import LabError, OutputError
from lab.files import to_json
from lab.study import runs, scheduling
from lab.study.plans import Run
from lab.study.results import right

ROOT = Path(__file__).parents[2]


def test_a_run_has_all_its_parts(done):
    for record in done.records:
        assert not record.failure
        assert len(record.labels) == len(record.in_place) == len(record.moved) == 2000
        assert len(record.accuracy) == len(record.agreement) == len(record.accuracy[0]) == 17
        assert record.agreement[8][8] == 1.0
        assert {layer.layer for layer in record.layers} >= {"conv1", "fc"}
        on_a_ring = [one for one in record.layers if (one.layer, one.dy) == ("fc", 4)]
        assert [(one.theory, one.observed) for one in on_a_ring] == [("exact", "exact")]


def test_the_adaptive_grid_gives_moved_digits_their_class_again(done):
    """Exactly, but for digits whose grids tie up to rounding; the control is max pooling."""
    found = {name: done.interval("consistency", pooling=name).mean for name in ("adaptive", "max")}
    assert found["adaptive"] >= 1 - 1e-3
    assert found["max"] <= 0.998  # trained on 64 digits, it gives most digits the same class


def test_the_same_run_twice_gives_the_same_record_and_leaves_the_threads_as_they_were(done, embedded, tiny):
    run, threads = next(tiny.runs()), torch.get_num_threads()
    torch.set_num_threads(2)
    again = runs.execute(run, "embedded", "", (runs.version(), embedded.sha256))
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    assert again == done.records[0]
    assert again != done.records[2]  # another seed


def test_threads_of_one_process_find_what_one_run_after_the_other_finds(done, embedded, tiny):
    """As on a Dask worker that was given several: random numbers belong to the whole process."""
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda run: runs.execute(run, "embedded", "", (runs.version(), embedded.sha256)), tiny.runs())
        assert tuple(found) == done.records


def test_a_moved_digit_has_all_its_ink_and_is_elsewhere(embedded):
    test = embedded.test.sample(300, seed=0)
    moved = runs.moved_once(test)
    torch.testing.assert_close(moved.sum((1, 2, 3)), test.images.sum((1, 2, 3)))
    assert (moved != test.images).flatten(1).any(1).all()


def test_every_module_that_a_record_depends_on_is_in_its_version():
    """Imports are followed from what a run calls; of what only shows records or reports, nothing counts."""
    package, waiting, found = ROOT / "lab", ["study.runs"], set()
    while waiting:
        name = waiting.pop()
        found.add(name)
        imported = imported_modules(package / f"{name.replace('.', '/')}.py")
        waiting += imported - found - {"plotting", "metering.report"}
    assert {name_of(path) for path in runs.sources()} >= found


def test_a_record_has_the_name_of_all_that_it_depends_on(tiny, monkeypatch):
    first, *others = tiny.runs()
    keys = [runs.key(one, "data") for one in (first, *others)] + [runs.key(first, "other data")]
    monkeypatch.setattr(runs, "version", lambda: "other code")
    keys.append(runs.key(first, "data"))
    assert len(set(keys)) == len(keys)


def test_every_file_that_a_record_depends_on_is_in_the_version():
    known = {runs.version.__wrapped__()}
    for path in runs.sources():
        with pytest.MonkeyPatch.context() as patch:
            changed = {path: path.read_bytes() + b"#"}
            patch.setattr(Path, "read_bytes", lambda self, read=Path.read_bytes, of=changed: of.get(self) or read(self))
            known.add(runs.version.__wrapped__())
    assert len(known) == 1 + len(runs.sources())


def test_a_run_passes_on_what_its_setting_says(embedded, monkeypatch):
    seen = []

    def stopped(model, split, recipe, **_):
        seen.append((split, recipe))
        raise LabError("enough")

    monkeypatch.setattr(runs, "fit", stopped)
    setting = lab.Setting(augmentation=3, digits=70, epochs=4)
    for seed in (5, 6):
        assert runs.execute(Run(setting, seed), "embedded", "", (runs.version(), embedded.sha256)).failure == "enough"
    for (split, recipe), seed in zip(seen, (5, 6), strict=True):
        assert (len(split), recipe.max_shift, recipe.epochs, recipe.seed) == (70, 3, 4, seed)
    assert not torch.equal(seen[0][0].labels, seen[1][0].labels)  # other digits with another seed


def test_accuracy_and_agreement_have_rows_dy_and_columns_dx(embedded):
    """A network that says 1 where the upper half has more ink than the lower one, and 0 elsewhere."""

    class Upper(torch.nn.Module):
        def forward(self, x):
            upper = (x[:, :, :14].sum((1, 2, 3)) > x[:, :, 14:].sum((1, 2, 3))).float()
            return torch.nn.functional.one_hot(upper.long(), 10).float()

    test = embedded.test.sample(200, seed=0)
    in_place = runs._classes(Upper(), test.images)
    accuracy, agreement = (torch.tensor(grid) for grid in runs._at_every_shift(Upper(), test, in_place))
    assert (agreement[8, 6:11] == 1).all()  # 2 px to the left or right, where all ink stays inside, change nothing
    assert agreement[[0, 16]].mean(1).max() < 0.9  # 8 px up or down do
    assert accuracy.max() < 0.5  # most digits are neither 0 nor 1


def test_what_was_done_is_not_done_again(tiny, embedded, records, monkeypatch):
    monkeypatch.setattr(scheduling, "execute", lambda *_: pytest.fail("run again"))
    assert len(lab.run_study(tiny, embedded, folder=records).records) == 4


def test_a_damaged_record_is_made_again(tiny, embedded, records, tmp_path, done):
    for path in records.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    run = next(tiny.runs())
    (tmp_path / f"{runs.key(run, embedded.sha256)}.json").write_text("{", encoding="utf-8")
    assert lab.run_study(tiny, embedded, folder=tmp_path).records == done.records


def test_a_run_that_fails_is_a_record_that_says_why_and_does_not_stop_the_others(tiny, embedded, records):
    study = replace(tiny, seeds=1, factors=tiny.factors | {"digits": [64, 9000]})
    found = lab.run_study(study, embedded, folder=records)
    assert [bool(record.failure) for record in found.records] == [False, True, False, True]
    assert "digits must be at most 8,000" in found.failed[0].failure
    failed = found.failed[0]
    assert runs.kept(records, Run(failed.setting, failed.seed), embedded.sha256) is None  # it is tried again
    assert len(found.of(pooling="max")) == 1


def test_a_study_that_is_stopped_keeps_what_was_done(tiny, embedded, done, tmp_path, monkeypatch):
    """The same holds for a disk that fills up."""
    left = iter(done.records[:2])

    def stopped(*_):
        if (record := next(left, None)) is None:
            raise KeyboardInterrupt
        return record

    monkeypatch.setattr(scheduling, "execute", stopped)
    with pytest.raises(KeyboardInterrupt):
        lab.run_study(tiny, embedded, folder=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 2


def test_a_disk_that_is_full_is_one_line_and_what_was_done_is_kept(tiny, embedded, done, tmp_path, monkeypatch):
    records = iter(done.records)
    monkeypatch.setattr(scheduling, "execute", lambda *_: next(records))
    write, written = Path.write_text, []

    def full(self, *args, **kwargs):
        written.append(self)
        if len(written) > 1:
            raise OSError(28, "No space left on device")
        return write(self, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match="No space left on device"):
        lab.run_study(tiny, embedded, folder=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 1


@pytest.mark.parametrize("other", [("0" * 16, None), (None, "0" * 64)], ids=["code", "data"])
def test_a_worker_with_other_code_or_data_is_refused(embedded, other):
    expected = (other[0] or runs.version(), other[1] or embedded.sha256)
    with pytest.raises(LabError, match="all workers must have the same code, torch and data"):
        runs.execute(Run(lab.Setting(), 0), "embedded", "", expected)


def test_rows_are_tidy_and_the_numbers_follow_from_the_predictions(done):
    rows = list(csv.DictReader(done.to_csv().splitlines()))
    assert [row["seed"] for row in rows] == ["0", "0", "1", "1"]
    share = sum(right(done.records[0], moved=True)) / 2000
    assert float(rows[0]["moved"]) == pytest.approx(share)


def test_the_study_as_json_is_as_documented(done):
    schema = json.loads((ROOT / "docs" / "study.schema.json").read_text(encoding="utf-8"))
    plain = json.loads(to_json(done.to_dict()))
    jsonschema.validate(plain, schema)
    plain["records"][0]["labels"] = "seven"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(plain, schema)


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
def test_a_study_waits_for_another_process_that_does_the_same_and_takes_its_records(
    tiny, embedded, done, tmp_path, monkeypatch
):
    import fcntl

    monkeypatch.setattr(scheduling, "execute", lambda *_: pytest.fail("done twice"))
    with ThreadPoolExecutor(1) as pool, (tmp_path / ".tiny-MNIST-10k.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as the other process has it
        found = pool.submit(lab.run_study, tiny, embedded, folder=tmp_path)
        for record in done.records:
            runs.keep(tmp_path, record, embedded.sha256)
        with pytest.raises(TimeoutError):
            found.result(timeout=0.5)
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert found.result(timeout=PROGRAM).records == done.records


def test_as_many_processes_work_as_were_asked_for(tiny, embedded, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(joblib, "Parallel", lambda **how: asked.append(how["n_jobs"]) or (lambda _: iter(())))
    with pytest.raises(KeyError):  # no record came
        lab.run_study(tiny, embedded, jobs=3, folder=tmp_path)
    assert asked == [3]

"""Runs in MLflow: a folder that its own client reads back, servers that fail. A real training is in integration/."""

import base64
import importlib.util
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from brainscale.config.files import load_config
from brainscale.config.sections import Config
from brainscale.errors import UsageError
from brainscale.training.mlflow_tracking import MLFLOW_FILE, check_tracking_uri, track_run
from tests.support.mlflow_runs import losses, only_run
from tests.support.runs import Invoke

METRICS = ("learning_rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
TAGS = {"config_sha256": "c0", "manifest_sha256": "d1"}


def row(epoch: int) -> dict[str, Any]:
    return {name: epoch + i / 8 for i, name in enumerate(METRICS)} | {"epoch": epoch, "best": True}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "first"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.json").write_text("{}")
    return folder


def train(uri: str, run: Path, epochs: range, say: Callable[[str], None], config: Config | None = None) -> None:
    """A run that ends well after some epochs."""
    history = [row(e) for e in range(1, epochs.start)]
    with track_run(uri, run, config or load_config(), TAGS, history, say) as tracking:
        for epoch in epochs:
            tracking.log_epoch(row(epoch))
        tracking.end("FINISHED", {"weights_sha256": "e2"}, run / "model")


def test_a_folder_holds_all_of_a_run(run: Path, tmp_path: Path) -> None:
    said: list[str] = []
    train(check_tracking_uri(str(tmp_path / "store")), run, range(1, 4), said.append)
    client, found = only_run(tmp_path / "store")
    assert (said, found.info.status, found.info.run_name) == ([], "FINISHED", "first")
    params, tags = found.data.params, found.data.tags
    assert (params["model.name"], params["train.seed"], params["resources.workers"]) == ("brainmrnet", "42", "auto")
    assert json.loads(params["data.classes"]) == load_config().data.classes
    assert {key: tags[key] for key in (*TAGS, "weights_sha256")} == TAGS | {"weights_sha256": "e2"}
    assert tags["brainscale"]
    assert losses(client, found.info.run_id) == [(e, row(e)["val_loss"]) for e in (1, 2, 3)]
    assert found.data.metrics == {name: row(3)[name] for name in METRICS}
    assert [f.path for f in client.list_artifacts(found.info.run_id, "model")] == ["model/model.json"]
    assert json.loads((run / MLFLOW_FILE).read_text()) == {"run_id": found.info.run_id, "epochs": 3}


@pytest.mark.parametrize(("kind", "status"), [(KeyboardInterrupt, "KILLED"), (RuntimeError, "FAILED")])
def test_a_continued_run_goes_on_in_its_own(run: Path, tmp_path: Path, kind: type[BaseException], status: str) -> None:
    uri, said = check_tracking_uri(str(tmp_path / "store")), list[str]()
    with pytest.raises(kind), track_run(uri, run, load_config(), TAGS, [], said.append) as tracking:
        tracking.log_epoch(row(1))
        raise kind
    client, before = only_run(tmp_path / "store")
    assert before.info.status == status
    spread = load_config(None, ["resources.workers=2"])  # that a parameter is another now is no error
    train(uri, run, range(3, 5), said.append, spread)  # epoch 2 ended while nobody sent it
    client, after = only_run(tmp_path / "store")
    assert (after.info.run_id, after.info.status, said) == (before.info.run_id, "FINISHED", [])
    assert losses(client, after.info.run_id) == [(e, row(e)["val_loss"]) for e in (1, 2, 3, 4)]


def test_another_server_gets_a_run_of_its_own_with_all_epochs(run: Path, tmp_path: Path) -> None:
    said: list[str] = []
    for name, epochs in (("one", range(1, 3)), ("other", range(3, 4))):
        train(check_tracking_uri(str(tmp_path / name)), run, epochs, said.append)
    client, found = only_run(tmp_path / "other")
    assert [step for step, _ in losses(client, found.info.run_id)] == [1, 2, 3]
    assert said == []


def test_what_could_not_be_sent_is_sent_at_the_end(run: Path, tmp_path: Path) -> None:
    store, said = tmp_path / "store", list[str]()
    store.write_text("no folder")
    with track_run(check_tracking_uri(str(store)), run, load_config(), TAGS, [], said.append) as tracking:
        tracking.log_epoch(row(1))
        tracking.log_epoch(row(2))
        store.unlink()
        tracking.log_epoch(row(3))
        assert not store.exists()  # one failure is enough while the workers train
        tracking.end("FINISHED", {}, run / "model")
    client, found = only_run(store)
    assert [step for step, _ in losses(client, found.info.run_id)] == [1, 2, 3]
    assert len(said) == 1
    assert "training continues" in said[0]


def test_a_run_without_a_server_leaves_nothing(run: Path) -> None:
    with track_run(None, run, load_config(), TAGS, [], pytest.fail) as tracking:
        tracking.log_epoch(row(1))
        tracking.end("FINISHED", {}, run / "model")
    assert [p.name for p in run.iterdir()] == ["model"]


@contextmanager
def refusing() -> Iterator[tuple[str, list[str | None]]]:
    """A server that refuses everything, and the credentials that it was given."""
    seen: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_response(403)
            self.end_headers()
            self.wfile.write(b"no entry")

        do_POST = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


def test_a_server_that_refuses_costs_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s3cret")
    said: list[str] = []
    with refusing() as (uri, seen):
        train(uri, run, range(1, 3), said.append)
    basic = base64.b64encode(b"ada:s3cret").decode()
    assert set(seen) == {f"Basic {basic}"}
    assert len(said) == 1
    assert "403" in said[0]
    assert not any(secret in said[0] for secret in ("s3cret", basic))
    assert capfd.readouterr() == ("", "")


def test_a_server_that_is_not_there_costs_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    said: list[str] = []
    train("http://127.0.0.1:9", run, range(1, 3), said.append)
    assert len(said) == 1
    assert "API request to the server" in said[0]
    assert "\n" not in said[0]
    assert not (run / MLFLOW_FILE).exists()
    assert capfd.readouterr() == ("", "")


def test_addresses() -> None:
    assert (
        check_tracking_uri("runs/store")
        == (Path.cwd() / "runs/store").as_uri()
        == check_tracking_uri("file:runs/store")
    )
    for plain in ("http://host:5000", "https://host/mlflow", "databricks", "sqlite:///a.db", "file:///a/b"):
        assert check_tracking_uri(plain) == plain
    for secret in ("http://ada:s3cret@host", "https://s3cret@host/a", "http://host/?token=s3cret"):
        with pytest.raises(UsageError, match="MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD") as caught:
            check_tracking_uri(secret)
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("more", [[], ["--address", "http://127.0.0.1:1"]])
def test_credentials_are_refused_before_any_work(invoke: Invoke, tmp_path: Path, more: list[str]) -> None:
    out = tmp_path / "run"
    result = invoke("train", "--data", "none", "--out", out, "--mlflow", "http://ada:s3cret@host", *more)
    assert (result.exit_code, result.stdout, out.exists()) == (2, "", False)
    assert "without credentials" in result.stderr
    assert "s3cret" not in result.stderr
    assert result.stderr.count("\n") == 1


def test_without_mlflow_one_line_says_how_to_get_it(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "mlflow" else find(name, *a))
    result = invoke("train", "--data", "none", "--out", tmp_path / "run", "--mlflow", tmp_path / "store")
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: --mlflow needs MLflow's client: pip install 'brainscale[mlflow]'\n",
    )
    assert list(tmp_path.iterdir()) == []


def test_folds_are_not_tracked(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("train", "--data", "none", "--out", tmp_path / "run", "--mlflow", tmp_path / "store", "--folds", 3)
    assert result.exit_code == 2
    assert "--mlflow records one run" in result.stderr

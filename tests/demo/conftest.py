"""Shared by the demo's tests: a zoo with one small model of every family, made here, and a way to show the pages that zoo."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "runtime" / "zoo"
CLOTHES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@pytest.fixture(autouse=True)
def our_own_main() -> Iterator[None]:
    """Streamlit's AppTest leaves its script behind as ``__main__``, which a process that is spawned later would run."""
    ours = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = ours


@pytest.fixture(scope="session")
def tiny_zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """digits, digit-scenes and shakespeare as shipped; the others as networks that have learnt nothing. No fashion-gan."""
    import torch

    from onnxferry.export import export_checkpoint
    from onnxferry.train.data.images import load_images
    from onnxferry.train.families.cnn import Cnn, CnnConfig
    from onnxferry.train.families.gan import GanConfig, Generator
    from onnxferry.train.families.seq2seq import Seq2Seq, Seq2SeqConfig, padded
    from onnxferry.train.loop.checkpoint import Checkpoint

    zoo = tmp_path_factory.mktemp("zoo")
    runs = tmp_path_factory.mktemp("runs")
    for name in ("digits", "digit-scenes", "shakespeare"):
        shutil.copytree(ZOO / name, zoo / name)
    torch.manual_seed(0)
    # One thread: on a machine that is busy, threads that wait for one another take minutes for what takes one a second.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    held_out = load_images("digits-5k").test
    few = np.concatenate([np.flatnonzero(held_out.labels == digit)[:3] for digit in range(10)])
    images, labels = held_out.images[few], held_out.labels[few].astype(np.int64)

    def ship(name: str, family: str, network: torch.nn.Module, config: object, examples: dict, **arrays: np.ndarray) -> None:
        run, folder = runs / name, zoo / name
        run.mkdir()
        folder.mkdir()
        Checkpoint(
            family=family,
            config=dataclasses.asdict(config),  # type: ignore[call-overload]
            weights=network.state_dict(),
            examples=examples,
            provenance={"command": f"onnxferry train {family}"},
        ).save(run / "best.pt")
        report = export_checkpoint(run, folder / f"{name}.onnx", name=name)
        np.savez_compressed(folder / "examples.npz", **arrays)
        card = {
            "name": name,
            "description": f"{name} that has learnt nothing",
            "family": family,
            "command": f"onnxferry train {family}",
            "figures": {"accuracy": 0.987, "latents": 6},
            "parity": report.summary(),
        }
        (folder / "card.json").write_text(json.dumps(card))

    translator = Seq2SeqConfig(embedding=4, encoder=6, decoder=6, attention=4, half=False, max_bytes=5)
    text, lengths = padded([b"3 mars 2019"])
    ship("dates", "seq2seq", Seq2Seq(translator), translator, {"text": text, "lengths": lengths})
    recogniser = CnnConfig(labels=CLOTHES, framing="fit", width=4, blocks=(1, 1, 1))
    tensors = torch.from_numpy(images.copy())
    ship(
        "fashion", "cnn", Cnn(recogniser), recogniser, {"image": tensors[:8]},
        images=images, labels=labels, predicted=(labels + (np.arange(len(labels)) % 5 == 0)) % 10,
    )  # fmt: skip
    maker = GanConfig(labels=tuple("0123456789"), noise=8, width=8)
    generator = Generator(maker).train()
    for _ in range(10):  # running statistics of its own
        generator(torch.randn(64, 8), torch.randint(10, (64,)))
    ship(
        "digits-gan", "gan", generator, maker, {"noise": torch.randn(16, 8), "label": torch.arange(16) % 10},
        images=images, labels=labels,
    )  # fmt: skip
    _ship_autoencoder(zoo / "digits-ae", runs / "digits-ae", images, labels)
    torch.set_num_threads(threads)
    return zoo


def _ship_autoencoder(folder: Path, run: Path, images: np.ndarray, labels: np.ndarray) -> None:
    from onnxferry.export import export_checkpoint
    from onnxferry.train.data.images import load_images
    from onnxferry.train.families.autoencoder import AutoencoderLearner, AutoencoderOptions
    from onnxferry.train.loop.loop import LoopConfig, fit

    splits = load_images("digits-5k", limit=200, validation=50)
    learner = AutoencoderLearner(splits, AutoencoderOptions(epochs=1, batch=20, average=0.9), latent=6, width=8, seed=0)
    fit(learner, LoopConfig(out=run, command="onnxferry train ae", device="cpu"))
    folder.mkdir()
    report = export_checkpoint(run, folder / "digits-ae.onnx", name="digits-ae")
    np.savez_compressed(folder / "examples.npz", images=images, labels=labels, strange=255 - images[:4])
    card = {
        "name": "digits-ae",
        "description": "",
        "family": "ae",
        "command": "onnxferry train ae",
        "figures": {},
        "parity": report.summary(),
    }
    (folder / "card.json").write_text(json.dumps(card))


@pytest.fixture
def show_zoo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """``show_zoo(folder)``: what the catalog finds from now on. Opened models are forgotten before and after."""
    import streamlit as st

    from onnxferry.runtime.artifact import zoo as catalog

    def put(folder: Path) -> None:
        monkeypatch.setattr(catalog, "_zoo", lambda: folder)

    st.cache_resource.clear()
    yield put
    st.cache_resource.clear()


def _script(name: str) -> None:
    import importlib

    importlib.import_module(f"onnxferry.demo.pages.{name}").page()


@pytest.fixture
def show(tiny_zoo: Path, show_zoo: Callable[[Path], None]) -> Callable[..., AppTest]:
    """``show("write", seed="3")``: the page, run once; the names after the first are the address's parameters. ``zoo``: another."""

    def open_page(name: str, *, zoo: Path = tiny_zoo, **query: str) -> AppTest:
        show_zoo(zoo)
        page = AppTest.from_function(_script, args=(name,), default_timeout=300)
        for key, value in query.items():
            page.query_params[key] = value
        return page.run()

    return open_page


def html_of(page: AppTest) -> str:
    """All HTML of a page, joined: Streamlit's elements, then those of our own that are patched."""
    parts = [each.body for each in page.get("html")]
    for each in page.get("bidi_component"):
        component = each.proto.bidi_component if hasattr(each.proto, "bidi_component") else each.proto
        if component.component_name.endswith(("onnxferry_patched", "onnxferry_crossed")):
            parts.append(json.loads(component.json)["html"])
    return "\n".join(parts)


@pytest.fixture
def html() -> Callable[[AppTest], str]:
    """``html(page)``: all its HTML."""
    return html_of


@pytest.fixture
def well() -> Callable[[AppTest], None]:
    """``well(page)``: nothing was raised, and no error is shown."""

    def check(page: AppTest) -> None:
        assert [each.value for each in page.exception] == []
        assert [each.value for each in page.error] == []

    return check


SERVED = """
import os
from pathlib import Path
from streamlit import App
from onnxferry.demo.serving.middleware import MIDDLEWARE
from onnxferry.runtime.artifact import zoo
zoo._zoo = lambda: Path(os.environ["SHOWN_ZOO"])
app = App({script!r}, middleware=MIDDLEWARE)
"""


@contextlib.contextmanager
def served(zoo: Path, folder: Path) -> Iterator[str]:
    """The address of the demo, served as the command serves it; its cache is ``folder / "cache"``."""
    import subprocess
    import time
    import urllib.error
    import urllib.request

    from onnxferry.demo.cli import free_port, serve_command

    script = folder / "app.py"
    script.write_text(SERVED.format(script=str(ROOT / "demo" / "serving" / "navigation.py")))
    shutil.copytree(ROOT / "demo" / ".streamlit", folder / ".streamlit")
    port = free_port(None)
    command = [str(script) if part.endswith("app.py") else part for part in serve_command(port)]
    environment = os.environ | {"SHOWN_ZOO": str(zoo), "ONNXFERRY_CACHE": str(folder / "cache")}
    log = folder / "log"
    with log.open("w") as out, subprocess.Popen(command, env=environment, stdout=out, stderr=out) as process:
        try:
            url = f"http://localhost:{port}"
            deadline = time.monotonic() + 180
            while True:
                try:
                    with urllib.request.urlopen(f"{url}/_stcore/health", timeout=5) as answer:
                        if answer.status == 200:
                            break
                except (urllib.error.URLError, TimeoutError, ConnectionError):
                    pass
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture(scope="session")
def server(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the demo with the tiny zoo and without onnxruntime-web; one server for all tests."""
    with served(tiny_zoo, tmp_path_factory.mktemp("served")) as url:
        yield url


@pytest.fixture
def server_with_cache(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a demo with the shipped models, and the folder that is its cache, empty at first."""
    with served(ZOO, tmp_path) as url:
        yield url, tmp_path / "cache"

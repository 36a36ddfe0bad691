"""Loading versions from real files with real OpenVINO, without Ray."""

import shutil
from hashlib import sha384
from pathlib import Path

import openvino as ov

from deployments.model.versions.versions import Versions
from tests.e2e.live import counting_model, put_version
from tests.model.versions.from_files import ask, loaded, loader, settings


async def test_versions_are_loaded_from_their_directories(tmp_path: Path) -> None:
    for number in (1, 12):
        put_version(tmp_path / "models" / "m", number)
    assert [1, 12] == list(loader(tmp_path).find(settings()))
    serving = await loaded(tmp_path, 12)
    assert "12" == serving.info.version
    assert 12.0 == await ask(serving, 1, 4)
    await serving.close()


async def test_a_signature_changes_with_the_files_and_only_with_them(tmp_path: Path) -> None:
    put_version(tmp_path / "models" / "m", 1)
    before = loader(tmp_path).find(settings())
    assert before == loader(tmp_path).find(settings())
    (tmp_path / "models" / "m" / "1" / ".notes").write_text("hidden files do not count")
    assert before == loader(tmp_path).find(settings())
    put_version(tmp_path / "models" / "m", 1)
    assert before != loader(tmp_path).find(settings())


async def test_a_version_serves_on_when_its_files_are_overwritten_or_removed(
    tmp_path: Path,
) -> None:
    """A mapped file would end the process, or change the answers."""
    put_version(tmp_path / "models" / "m", 1)
    serving = await loaded(tmp_path, reshape="blocking")
    weights = tmp_path / "models" / "m" / "1" / "m.bin"
    weights.write_bytes(b"\xff" * weights.stat().st_size)
    assert 1.0 == await ask(serving, 1, 4)
    weights.write_bytes(b"")
    assert 1.0 == await ask(serving, 1, 5)
    await serving.close()


async def test_a_single_file_is_version_1(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    ov.save_model(counting_model(7), tmp_path / "models" / "seven.xml", compress_to_fp16=False)
    serving = await loaded(tmp_path, source="seven.xml")
    assert ("1", 7.0) == (serving.info.version, await ask(serving, 1, 4))
    await serving.close()


async def test_versions_of_a_store_are_copied_when_they_are_loaded(tmp_path: Path) -> None:
    store = tmp_path / "store" / "m"
    for number in (1, 2, 3):
        put_version(store, number)
    from_store, wanted = loader(tmp_path), settings(source=f"file://{store}")
    found = from_store.find(wanted)
    assert [1, 2, 3] == list(found)
    home = tmp_path / "models" / "m"
    for number in (2, 3):
        serving = await from_store.load(number, found[number], wanted)
        assert float(number) == await ask(serving, 1, 4)
        await serving.close()
    assert ["2", "3"] == sorted(path.name for path in home.iterdir() if path.name.isdigit())
    assert found == from_store.find(wanted)
    shutil.rmtree(store / "2")
    put_version(store, 3)
    changed = from_store.find(wanted)
    assert [1, 3] == list(changed)
    assert found[3] != changed[3]
    serving = await from_store.load(3, changed[3], wanted)
    assert 3.0 == await ask(serving, 1, 4)
    await serving.close()
    assert ["3"] == sorted(path.name for path in home.iterdir() if path.name.isdigit())
    shutil.rmtree(store)
    assert [3] == list(from_store.find(wanted))


async def test_a_source_that_becomes_a_store_serves_the_stores_version(tmp_path: Path) -> None:
    put_version(tmp_path / "models" / "m", 1)
    store = tmp_path / "store"
    (store / "1").mkdir(parents=True)
    ov.save_model(counting_model(5), store / "1" / "m.xml", compress_to_fp16=False)
    serving = await loaded(tmp_path)
    assert 1.0 == await ask(serving, 1, 4)
    await serving.close()
    serving = await loaded(tmp_path, source=f"file://{store}")
    assert 5.0 == await ask(serving, 1, 4)
    await serving.close()


async def test_what_serves_goes_on_when_the_download_of_a_changed_source_fails(
    tmp_path: Path,
) -> None:
    put_version(tmp_path / "models" / "m", 1)
    files = [
        {"url": f"http://127.0.0.1:9/{file.name}", "sha384": sha384(file.read_bytes()).hexdigest()}
        for file in sorted((tmp_path / "models" / "m" / "1").iterdir())
    ]
    from_files = loader(tmp_path)
    versions = Versions(settings(source=files), from_files.find, from_files.load)
    await versions.look()
    assert ("AVAILABLE", "") == (versions.status().state, versions.status().reason)
    changed = [files[0], {**files[1], "sha384": "00" * 48}]
    versions.reconfigure(settings(source=changed))
    await versions.look()
    status = versions.status()
    assert "AVAILABLE" == status.state
    assert "m.xml cannot be downloaded: connection refused; next try in" in status.reason
    serving = versions.version(None)
    assert serving is not None
    assert 1.0 == await ask(serving, 1, 4)
    await versions.close()

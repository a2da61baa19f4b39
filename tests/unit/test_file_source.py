"""The file source: what is in the files becomes facts at once, and no broken edit loses the last good state."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import threading
from functools import partial
from pathlib import Path

import pytest
import trio

from spliceway.errors import SourceError
from spliceway.model import Service
from spliceway.settings import SourceSettings
from spliceway.source import file as file_module
from spliceway.source import manifest as manifest_module
from spliceway.source import notify, open_source
from spliceway.source.file import FileSource
from support.fold import Fold, folded


def service(name: str, port: int = 80) -> str:
    return (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n"
        f"spec: {{clusterIP: 127.64.0.1, ports: [{{port: {port}}}]}}\n"
    )


def ports(fold: Fold) -> dict[str, int]:
    return {made.key.name: made.ports[0].port for made in fold.objects.values() if isinstance(made, Service)}


def has(fold: Fold, **expected: int) -> bool:
    return ports(fold) == expected


async def test_files_and_folders(tmp_path: Path) -> None:
    """Lost: what a folder holds; or hidden and foreign files would be read as well."""
    folder = tmp_path / "folder"
    (folder / "deeper").mkdir(parents=True)
    for name in ("a.yaml", "b.yml", "c.json", ".hidden.yaml", "notes.txt", "a.yaml~", "deeper/d.yaml"):
        (folder / name).write_text(service(name.partition(".")[0].replace("/", "-") or "hidden"))
    (folder / "c.json").write_text(
        '{"apiVersion":"v1","kind":"Service","metadata":{"name":"c"},"spec":{"ports":[{"port":80}]}}'
    )
    (tmp_path / "single").write_text(service("single"))
    async with folded(FileSource([folder, tmp_path / "single"])) as fold:
        assert fold.names() == {"a", "b", "c", "single"}
        assert fold.said() == []


async def test_edit_is_seen_at_once(tmp_path: Path) -> None:
    """Lost: milliseconds between an edit and its effect; the poll would take seconds."""
    path = tmp_path / "a.yaml"
    path.write_text(service("a"))
    async with folded(FileSource([path])) as fold:
        delays: list[float] = []
        for port in range(81, 91):
            begun = trio.current_time()
            path.write_text(service("a", port))
            await fold.until(partial(has, fold, a=port))
            delays.append(trio.current_time() - begun)
        assert sorted(delays)[len(delays) // 2] < 0.1


async def test_rename_over(tmp_path: Path) -> None:
    """Lost: the edits of every careful editor and of configuration management."""
    path = tmp_path / "a.yaml"
    path.write_text(service("a"))
    async with folded(FileSource([path])) as fold:
        (tmp_path / "new").write_text(service("a", 81))
        (tmp_path / "new").rename(path)
        await fold.until(lambda: ports(fold) == {"a": 81})


async def test_editor_that_moves_the_old_file_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost: frontends would close for the moment between an editor's two steps (vim)."""
    monkeypatch.setattr(file_module, "SETTLE", 60.0)
    path = tmp_path / "a.yaml"
    path.write_text(service("a"))
    async with folded(FileSource([path])) as fold:
        for port in range(81, 86):
            path.rename(tmp_path / "a.yaml~")
            await trio.lowlevel.checkpoint()
            path.write_text(service("a", port))
            await fold.until(partial(has, fold, a=port))
        assert fold.gone == 0


async def test_half_written_file_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost: Services would vanish while their file is being written: it is empty first, and sound but short later."""
    monkeypatch.setattr(file_module, "SETTLE", 60.0)
    path = tmp_path / "a.yaml"
    path.write_text(service("a") + "---\n" + service("b"))
    async with folded(FileSource([path])) as fold:
        upserts = fold.upserts
        with path.open("w") as file:
            for document in (service("a", 81), "---\n", service("b", 81)):
                assert fold.names() == {"a", "b"}
                file.write(document)
                file.flush()
                await trio.sleep(0.02)  # the writer is slow; the source gets its chance to be fooled
                assert fold.upserts == upserts
        await fold.until(lambda: ports(fold) == {"a": 81, "b": 81})


async def test_files_appear_and_vanish(tmp_path: Path) -> None:
    """Lost: a removed manifest would be served for ever, a new one never."""
    async with folded(FileSource([tmp_path])) as fold:
        assert fold.names() == set()
        (tmp_path / "a.yaml").write_text(service("a"))
        (tmp_path / "b.yaml").write_text(service("b"))
        await fold.until(lambda: fold.names() == {"a", "b"})
        (tmp_path / "a.yaml").unlink()
        await fold.until(lambda: fold.names() == {"b"})
        assert fold.said() == []


async def test_named_file_that_vanishes_is_a_problem(tmp_path: Path) -> None:
    """Lost: nobody would know why nothing is served any more."""
    path = tmp_path / "a.yaml"
    path.write_text(service("a"))
    async with folded(FileSource([path])) as fold:
        path.unlink()
        await fold.until(lambda: bool(fold.said()))
        assert fold.said() == [f"{path}: does not exist any more; nothing of it is served until it is back"]
        assert fold.names() == set()
        path.write_text(service("a"))
        await fold.until(lambda: fold.names() == {"a"} and not fold.said())


async def test_broken_edit_keeps_the_last_good_state(tmp_path: Path) -> None:
    """Lost: a typing mistake would be an outage."""
    path = tmp_path / "a.yaml"
    path.write_text(service("a"))
    async with folded(FileSource([tmp_path])) as fold:
        path.write_text(service("a") + "  broken: [\n")
        await fold.until(lambda: bool(fold.said()))
        (said,) = fold.said()
        assert said.startswith(f"{path}:")
        assert said.endswith("; keeping its last good state")
        assert ports(fold) == {"a": 80}
        path.write_text(service("a", 81))
        await fold.until(lambda: not fold.said())
        assert ports(fold) == {"a": 81}


async def test_file_that_was_never_good(tmp_path: Path) -> None:
    """Lost: one broken file would keep the agent from starting with the others."""
    (tmp_path / "a.yaml").write_text("a: [")
    (tmp_path / "b.yaml").write_text(service("b"))
    source = FileSource([tmp_path])
    async with folded(source) as fold:
        assert fold.names() == {"b"}
        assert fold.said()[0].endswith("; nothing of it is used")
        (statistics,) = source.statistics()
        assert (statistics.synced, statistics.errors) == (True, 1)
        assert statistics.last_error == fold.said()[0]


async def test_failed_read_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost: a file that was read while no descriptor was left would never be served, until somebody edits it."""
    monkeypatch.setattr(file_module, "POLL", 0.05)
    path = tmp_path / "a.yaml"
    path.write_text(service("a"))
    tries = 0
    tried_again = threading.Event()

    def refuse(name: str, flags: int) -> int:
        nonlocal tries
        tries += 1
        if tries == 3:
            tried_again.set()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), name)

    source = FileSource([path])
    with monkeypatch.context() as patch:
        patch.setattr(manifest_module, "_open_at_once", refuse)
        async with folded(source) as fold:
            assert fold.said() == [f"{path}: cannot be read: too many open files; nothing of it is used"]
            assert await trio.to_thread.run_sync(tried_again.wait, 10)
            assert source.statistics()[0].errors == 1, "the same error is told once"
            patch.undo()
            await fold.until(lambda: fold.names() == {"a"} and not fold.said())


@pytest.mark.parametrize("named", [True, False])
async def test_fifo_in_the_place_of_a_file(tmp_path: Path, named: bool) -> None:
    """Lost: the source would wait for the FIFO's writer for ever, and see no other edit."""
    path = tmp_path / "a.yaml"
    path.write_text(service("a"))
    async with folded(FileSource([path if named else tmp_path])) as fold:
        path.unlink()
        os.mkfifo(path)
        await fold.until(lambda: bool(fold.said()))
        assert fold.said() == [f"{path}: cannot be read: it is not a regular file; keeping its last good state"]
        assert ports(fold) == {"a": 80}
        path.unlink()
        path.write_text(service("a", 81))
        await fold.until(lambda: ports(fold) == {"a": 81} and not fold.said())


async def test_socket_called_like_a_manifest(tmp_path: Path) -> None:
    """Lost: nobody would say why nothing of it is served; a folder in the folder is no mistake."""
    (tmp_path / "folder.yaml").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "a.yaml"))
        async with folded(FileSource([tmp_path])) as fold:
            assert fold.said() == [
                f"{tmp_path / 'a.yaml'}: cannot be read: it is not a regular file; nothing of it is used"
            ]


async def test_folder_that_vanishes_is_a_problem(tmp_path: Path) -> None:
    """Lost: nobody would know why nothing is served any more."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "a.yaml").write_text(service("a"))
    async with folded(FileSource([folder])) as fold:
        shutil.rmtree(folder)
        await fold.until(lambda: bool(fold.said()))
        assert fold.said() == [f"{folder}: does not exist any more; nothing of it is served until it is back"]
        assert fold.names() == set()
        folder.mkdir()
        await fold.until(lambda: not fold.said())
        (folder / "a.yaml").write_text(service("a"))
        await fold.until(lambda: fold.names() == {"a"})


async def test_volume_swap(tmp_path: Path) -> None:
    """Lost: changes of a mounted ConfigMap: kubelet swaps a link and touches no file."""
    (tmp_path / "..1").mkdir()
    (tmp_path / "..1" / "a.yaml").write_text(service("a"))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    async with folded(FileSource([tmp_path])) as fold:
        assert ports(fold) == {"a": 80}
        (tmp_path / "..2").mkdir()
        (tmp_path / "..2" / "a.yaml").write_text(service("a", 81))
        (tmp_path / "..data_tmp").symlink_to("..2")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        shutil.rmtree(tmp_path / "..1")
        await fold.until(lambda: ports(fold) == {"a": 81})
        assert fold.said() == []


async def test_folder_is_replaced(tmp_path: Path) -> None:
    """Lost: after a redeployment that replaces the folder, the source would watch one that is gone."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "a.yaml").write_text(service("a"))
    async with folded(FileSource([folder])) as fold:
        shutil.rmtree(folder)
        await fold.until(lambda: fold.names() == set())
        folder.mkdir()
        (folder / "b.yaml").write_text(service("b"))
        await fold.until(lambda: fold.names() == {"b"})
        (folder / "b.yaml").write_text(service("b", 81))
        await fold.until(lambda: ports(fold) == {"b": 81})


async def test_settled_file_is_believed(tmp_path: Path) -> None:
    """Lost: the changes of a writer that keeps its file open."""
    path = tmp_path / "a.yaml"
    path.write_text(service("a"))
    async with folded(FileSource([path])) as fold:
        with path.open("w") as file:
            file.write(service("a", 81))
            file.flush()
            await fold.until(partial(has, fold, a=81))


async def test_unreadable_file_keeps_its_last_good_state(tmp_path: Path) -> None:
    """Lost: a file system that fails for a moment would be an outage, or the file's later removal go unnoticed."""
    path = tmp_path / "a.yaml"
    path.write_text(service("a"))
    async with folded(FileSource([tmp_path])) as fold:
        (tmp_path / "loop").symlink_to(path)
        (tmp_path / "loop").rename(path)  # a link to itself can be listed, but not be opened
        await fold.until(lambda: bool(fold.said()))
        assert "cannot be read: too many levels of symbolic links; keeping its last good state" in fold.said()[0]
        assert fold.names() == {"a"}
        path.unlink()
        await fold.until(lambda: fold.names() == set() and not fold.said())


async def test_without_inotify_the_files_are_polled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost: changes on network file systems, and where inotify instances are used up."""

    def refuse() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(file_module, "FolderWatch", refuse)
    monkeypatch.setattr(file_module, "POLL_WITHOUT_INOTIFY", 0.05)
    (tmp_path / "a.yaml").write_text(service("a"))
    async with folded(FileSource([tmp_path])) as fold:
        (tmp_path / "a.yaml").write_text(service("a", 81))
        await fold.until(lambda: ports(fold) == {"a": 81})


async def test_lost_events_lead_to_a_survey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost: what changed while inotify's queue overflowed."""
    (tmp_path / "a.yaml").write_text(service("a"))
    take = notify.FolderWatch.take

    def overflowing(watch: notify.FolderWatch) -> notify.Changes:
        take(watch)
        return notify.Changes(frozenset(), frozenset(), overflow=True)

    async with folded(FileSource([tmp_path])) as fold:
        monkeypatch.setattr(notify.FolderWatch, "take", overflowing)
        (tmp_path / "a.yaml").write_text(service("a", 81))
        await fold.until(lambda: ports(fold) == {"a": 81})


async def test_only_changed_files_are_read_again(tmp_path: Path) -> None:
    """Lost: with a hundred files, every edit would cost a hundred reads."""
    for n in range(5):
        (tmp_path / f"{n}.yaml").write_text(service(f"s{n}"))
    async with folded(FileSource([tmp_path])) as fold:
        (tmp_path / "0.yaml").write_text(service("s0", 81))
        await fold.until(lambda: ports(fold)["s0"] == 81)
        assert fold.upserts == 6


async def test_foreign_files_in_the_folder_cause_no_work(tmp_path: Path) -> None:
    """Lost: a busy folder (/tmp) would keep the agent busy."""
    (tmp_path / "a.yaml").write_text(service("a"))
    source = FileSource([tmp_path / "a.yaml"])
    async with folded(source) as fold:
        (tmp_path / "log").write_text("x")
        staleness = source.statistics()[0].staleness
        (tmp_path / "a.yaml").write_text(service("a", 81))
        await fold.until(lambda: ports(fold) == {"a": 81})
        assert fold.upserts == 2
        assert source.statistics()[0].staleness < staleness + 1


async def test_large_file_comes_in_batches_and_the_loop_stays_alive(tmp_path: Path) -> None:
    """Lost: health probes and the admin side would hang while a large file is read."""
    (tmp_path / "a.json").write_text(
        '{"apiVersion":"v1","kind":"List","items":['
        + ",".join(
            f'{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"s{n}"}},"spec":{{"ports":[{{"port":80}}]}}}}'
            for n in range(20_000)
        )
        + "]}"
    )
    longest, started = 0.0, trio.current_time()
    async with trio.open_nursery() as nursery:

        async def beat() -> None:
            nonlocal longest
            while True:
                begun = trio.current_time()
                await trio.sleep(0.001)
                longest = max(longest, trio.current_time() - begun)

        nursery.start_soon(beat)
        async with folded(FileSource([tmp_path]), wait=False) as fold:
            await fold.until(lambda: len(fold.objects) == 20_000, 30)
        nursery.cancel_scope.cancel()
    assert longest < (trio.current_time() - started) / 3  # 20 ms on a free machine; the tests may share theirs


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_no_thread_or_descriptor_is_left(tmp_path: Path) -> None:
    """Lost: an embedding program that opens and closes sources would run out of descriptors."""
    (tmp_path / "a.yaml").write_text(service("a"))
    async with folded(FileSource([tmp_path])):
        pass
    before = (_open_files(), threading.active_count())
    for _ in range(5):
        async with folded(FileSource([tmp_path])):
            pass
    assert _open_files() <= before[0]
    assert threading.active_count() <= before[1] + 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (SourceSettings(manifests=(Path("/no/such/path"),)), "manifest /no/such/path does not exist"),
        (SourceSettings(manifests=(Path("/"),), kubeconfig=Path("/x")), "either from manifests or from a kubeconfig"),
        (SourceSettings(), "not in a Kubernetes cluster"),
        (SourceSettings(kubeconfig=Path("/no/config")), "kubeconfig /no/config cannot be read: no such file"),
        (SourceSettings(kubeconfig=Path("/proc/self/cmdline")), "kubeconfig /proc/self/cmdline is"),
    ],
)
def test_source_that_cannot_be(settings: SourceSettings, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost: a user's mistake would be a traceback."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(SourceError, match=said):
        open_source(settings)


def test_kubeconfig_without_the_context(tmp_path: Path) -> None:
    """Lost: the user would have to guess which contexts there are."""
    path = tmp_path / "config"
    path.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: blue\n"
        "clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\nusers: [{name: u, user: {}}]\n"
        "contexts: [{name: blue, context: {cluster: c, user: u}}]\n"
    )
    with pytest.raises(SourceError, match="has no context 'green'; it has blue"):
        open_source(SourceSettings(kubeconfig=path, context="green"))

"""What a power failure would leave of a journal, replayed from the system calls of a merge.

SIGKILL keeps what the kernel holds, so it cannot show what a power failure takes. Here strace notes each write
and sync of the journal's files, and each octet to the server, in their order. From that follow, for every moment
at which the power could fail: what was on the disk for certain, what may have been, and which mails had gone.
"""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from dataclasses import dataclass

from conftest import missing
from kill import child
from system_packages import found

_CALLS = "write,writev,pwrite64,pwritev,ftruncate,unlink,link,linkat,fsync,fdatasync,sendto,sendmsg"
# strace pads short process numbers.
_LINE = re.compile(r"(?P<pid>\d+) +(?P<call>\w+)\((?:\d+<(?P<file>[^>]*)>)?(?P<rest>.*)")
_RESUMED = re.compile(r"(?P<pid>\d+) +<\.\.\. (?:fsync|fdatasync) resumed>.*= 0$")
_OFFSET = re.compile(r", ([0-9]+)(?:\)| <unfinished)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_RCPT = re.compile(rb"RCPT TO:<([^>]*)>", re.IGNORECASE)


@dataclass(repr=False)
class Cut:
    """One moment at which the power fails: just before the next sync is done.

    Attributes:
        synced: What is on the disk for certain: each file's content.
        loose: The writes since, in order, each of which may have reached it: ``(file, offset, octets)``, with None
            for octets where the file was cut off there.
        dots: The recipients whose mail's final dot had left by then.
    """

    synced: dict[str, bytes]
    loose: list[tuple[str, int, bytes | None]]
    dots: set[str]

    def restore(self, folder, survives):
        """Write the files as they are after the failure; *survives* decides on each loose write."""
        files = {name: bytearray(content) for name, content in self.synced.items()}
        for name, offset, octets in self.loose:
            if survives():
                _overwrite(files.setdefault(name, bytearray()), offset, octets)
        for name, content in files.items():
            if name.startswith("."):
                continue  # a draft, of which nobody knows
            (folder / name).write_bytes(content)


@dataclass
class _Talk:
    """The client's half of a connection, far enough understood to see its dots."""

    text: bytes = b""
    recipient: str = ""
    in_body: bool = False

    def feed(self, octets):
        """Return the recipients of the mails that are complete by now."""
        *lines, self.text = (self.text + octets).split(b"\r\n")
        complete = []
        for line in lines:
            if self.in_body:
                if line == b".":
                    self.in_body = False
                    complete.append(self.recipient)
            elif match := _RCPT.match(line):
                self.recipient = match[1].decode()
            elif line.upper() == b"DATA":
                self.in_body = True
        return complete


class _Replay:
    """Files as the kernel has them and as the disk has them, and the dots, from one system call to the next."""

    def __init__(self, journal):
        self._journal = journal
        self._draft = f".{journal}."
        self._files = {journal, f"{journal}-wal", f"{journal}-journal"}
        self._now = defaultdict(bytearray)
        self._synced = {}
        self._loose = []
        self._dots = set()
        self._talks = defaultdict(_Talk)
        self._pending = {}

    def cut(self):
        return Cut(dict(self._synced), list(self._loose), set(self._dots))

    def over(self, lines):
        """Go through a trace and yield a Cut before each sync is done, and one at the end."""
        for line in lines:
            if resumed := _RESUMED.match(line):
                done = self._pending.pop(resumed["pid"], None)
            else:
                match = _LINE.match(line)
                done = self._call(**match.groupdict()) if match else None
            if done is not None:
                if not done[0].startswith(self._draft):  # until it has its name, there is nothing
                    yield self.cut()
                self._sync(*done)
        yield self.cut()

    def _call(self, pid, call, file, rest):
        """Take one call in; returns what a sync that is done makes safe."""
        where = _path(file) if file else _octets(rest).decode("utf-8", "replace")
        name = where.rpartition("/")[2]
        if where.startswith("socket:"):
            self._dots.update(self._talks[where].feed(_octets(rest)))
        elif call in {"link", "linkat"}:
            self._publish(
                [bytes.fromhex(t.replace("\\x", "")).decode() for t in _TEXT.findall(f"{file or ''}{rest}")]
            )
        elif name not in self._files and not name.startswith(self._draft):
            return None  # the index beside the log is made anew from it
        elif call in {"fsync", "fdatasync"}:
            covers = (name, bytes(self._now[name]), len(self._loose))
            if "<unfinished" not in rest:
                return covers
            self._pending[pid] = covers
        elif call == "unlink":
            self._remove(name)
        elif call in {"pwrite64", "ftruncate"} and (at := _OFFSET.search(rest)):
            self._write(name, int(at[1]), _octets(rest) if call == "pwrite64" else None)
        else:
            message = f"a call that is not replayed: {call}{rest[-80:]}"
            raise AssertionError(message)
        return None

    def _publish(self, paths):
        """Give a draft of the journal its name: pages that no later write touches are in no other."""
        draft, name = (path.rpartition("/")[2] for path in paths[-2:])
        if name == self._journal:
            self._now[name] = bytearray(self._now[draft])
            self._synced[name] = self._synced.get(draft, b"")
            self._loose += [(name, *loose[1:]) for loose in self._loose if loose[0] == draft]

    def _write(self, name, offset, octets):
        _overwrite(self._now[name], offset, octets)
        self._loose.append((name, offset, octets))

    def _sync(self, name, content, covered):
        """Note that *content* is safe, and with it the first *covered* loose writes of that file."""
        self._synced[name] = content
        self._loose = [w for i, w in enumerate(self._loose) if i >= covered or w[0] != name]

    def _remove(self, name):
        self._now.pop(name, None)
        self._synced.pop(name, None)
        self._loose = [w for w in self._loose if w[0] != name]


def _overwrite(content, offset, octets):
    """Write *octets* at *offset*; None cuts off, or extends, there."""
    content.extend(bytes(max(0, offset - len(content))))
    if octets is None:
        del content[offset:]
    else:
        content[offset : offset + len(octets)] = octets


def traced_merge(server, folder, rows):
    """Run a merge of so many rows into *server* under strace, and return every Cut; skips without strace."""
    strace = found("strace")
    if strace is None:
        missing("no strace here: apt install strace")
    if subprocess.run([strace, "-o", "/dev/null", "true"], check=False, capture_output=True).returncode:
        missing("strace may trace nothing here")
    trace, journal = folder / "trace", folder / "journal.sqlite3"
    watch = [strace, "-f", "-y", "-xx", "-s", "10000000", "-o", str(trace), "-e", f"trace={_CALLS}"]
    subprocess.run([*watch, *child(server.url(), journal, rows)], check=True, timeout=120)
    with trace.open(encoding="ascii") as lines:
        return list(_Replay(journal.name).over(lines))


def _octets(text):
    return b"".join(bytes.fromhex(part.replace("\\x", "")) for part in _TEXT.findall(text))


def _path(text):
    return _octets(f'"{text}"').decode() if text.startswith("\\x") else text

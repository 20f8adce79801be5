"""What a terminal would still show of a stream of text: the last state of each line, bounded. Pure.

Progress bars write over their own line, colours are codes, and a long run prints more than a mail holds. A
`Screen` follows the control functions that such programs use (ECMA-48: carriage return, backspace, cursor
movements, erasing), forgets those that only colour, and keeps the newest lines.
"""

from __future__ import annotations

import re

__all__ = ["MAX_CHARACTERS", "MAX_LINES", "Screen", "plain"]

#: How much of a stream is kept, the newest last. Gmail hides what lies beyond 102 kB of HTML, and what failed
#: stands at the end.
MAX_CHARACTERS = 40_000
MAX_LINES = 500
#: Text waits until there is so much of it: one look at a large piece is cheaper than many at small ones.
_CHUNK = 65_536
_FARTHEST = 500
_JUNK = "\ufffd"
#: What is not plain text: controls, and halves of characters, which no mail can hold. Tabs and line ends are.
_SPECIAL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_TOKEN = re.compile(
    # a control sequence (ECMA-48, 5.4), a control string (5.6), another escape sequence, one character
    "\x1b\\[(?P<numbers>[0-?]{0,64})[ -/]{0,8}(?P<verb>[@-~])"
    "|\x1b[\\]PX^_][^\x07\x1b]{0,512}(?:\x07|\x1b\\\\)"
    "|\x1b[ -/]{0,8}[0-~]"
    "|(?P<one>[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff])"
)
#: An escape sequence whose rest is still to come.
_OPEN = re.compile("\x1b(?:\\[[0-?]{0,64}[ -/]{0,8}|[\\]PX^_][^\x07\x1b]{0,512}\x1b?|[ -/]{0,8})?\\Z")
_LONGEST = 520


class Screen:
    """The newest lines of a stream, as a terminal would show them.

    Args:
        most: How many characters are kept, at least; never more than about three times as many.

    Attributes:
        lost: How many lines went out at the top.
    """

    __slots__ = ("_column", "_held", "_most", "_row", "_rows", "_since", "_size", "_waiting", "lost")

    def __init__(self, most: int = MAX_CHARACTERS) -> None:
        self._most = most
        self._waiting: list[str] = []
        self._size = 0
        self._since = 0
        self._held = ""
        self._rows = [""]
        self._row = 0
        self._column = 0
        self.lost = 0

    def write(self, text: str) -> None:
        """Take the next piece of the stream, whatever it is."""
        if len(text) > max(_CHUNK, 4 * self._most):
            self._settle()
            text = self._skip(text)
        self._waiting.append(text)
        self._size += len(text)
        if self._size >= _CHUNK:
            self._settle()

    def lines(self) -> list[str]:
        """Return the lines that are kept, without blanks at their ends and without empty ones at the end."""
        self._settle()
        self._trim()
        found = [row.rstrip() for row in self._rows]
        while found and not found[-1]:
            found.pop()
        return found

    def _settle(self) -> None:
        """Put what waits onto the screen."""
        text = self._held + "".join(self._waiting)
        self._waiting, self._size, self._held = [], 0, ""
        if _SPECIAL.search(text) is None:
            self._put(text)
        else:
            self._follow(text)
        self._since += len(text)
        if self._since > self._most:
            self._trim()

    def _skip(self, text: str) -> str:
        """Leave out what would not be kept anyway, and return the rest; a copy of all of it would be too much."""
        rest = len(text) - 2 * self._most
        self.lost += len(self._rows) - 1 + text.count("\n", 0, rest)
        self._rows, self._row, self._column, self._held = ["…"], 0, 1, ""
        return text[rest:]

    def _follow(self, text: str) -> None:
        unfinished = _OPEN.search(text, max(0, len(text) - _LONGEST))
        if unfinished is not None:
            text, self._held = text[: unfinished.start()], unfinished[0]
        done = 0
        for token in _TOKEN.finditer(text):
            if token.start() > done:
                self._put(text[done : token.start()])
            done = token.end()
            if token["one"]:
                self._control(token["one"])
            elif token["verb"]:
                self._move(token["verb"], token["numbers"])
        if done < len(text):
            self._put(text[done:])

    def _put(self, text: str) -> None:
        first, *rest = text.split("\n")
        self._overwrite(first)
        if rest and self._row == len(self._rows) - 1:
            self._rows += rest
            self._row = len(self._rows) - 1
            self._column = len(rest[-1])
            return
        for line in rest:
            self._row += 1
            self._column = 0
            if self._row == len(self._rows):
                self._rows.append("")
            self._overwrite(line)

    def _overwrite(self, text: str) -> None:
        if not text:
            return
        row = self._rows[self._row]
        end = self._column + len(text)
        self._rows[self._row] = row[: self._column].ljust(self._column) + text + row[end:]
        self._column = end

    def _control(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\b":
            self._column = max(0, self._column - 1)
        elif character not in "\x07\x0b\x0c\x0e\x0f\x1b\x7f":
            self._overwrite(_JUNK)

    def _move(self, verb: str, numbers: str) -> None:
        number = int(numbers) if numbers.isdecimal() else None
        by = min(number or 1, _FARTHEST)
        row = self._rows[self._row]
        match verb:
            case "A":
                self._row = max(0, self._row - by)
            case "B":
                self._row = min(len(self._rows) - 1, self._row + by)
            case "C":
                self._column = min(max(len(row), _FARTHEST), self._column + by)
            case "D":
                self._column = max(0, self._column - by)
            case "G":
                self._column = by - 1
            case "K" | "J":
                self._erase(verb, number or 0)
            case _:
                pass

    def _erase(self, verb: str, number: int) -> None:
        """Erase in the line or on the screen (ECMA-48, 8.3.41 and 8.3.39): 0 to the end, 1 from the start, 2 all."""
        row = self._rows[self._row]
        if number and verb == "J":
            # What is wiped away is not missed.
            self._rows, self._row, self._column = [""], 0, 0
        elif number == 1:
            self._rows[self._row] = " " * min(self._column, len(row)) + row[self._column :]
        else:
            self._rows[self._row] = "" if number else row[: self._column]
            if verb == "J":
                del self._rows[self._row + 1 :]

    def _trim(self) -> None:
        """Let go of the oldest lines beyond the bounds; of a very long line its end stays."""
        self._since = 0
        room = self._most
        first = len(self._rows)
        while first and len(self._rows) - first < MAX_LINES:
            row = self._rows[first - 1]
            if len(row) >= room:
                if len(row) > self._most // 2 and room > 1:
                    first -= 1
                    self._shorten(first, room)
                break
            room -= len(row) + 1
            first -= 1
        first = min(first, len(self._rows) - 1)
        del self._rows[:first]
        self.lost += first
        self._row -= first
        if self._row < 0:
            self._row = self._column = 0

    def _shorten(self, index: int, room: int) -> None:
        row = self._rows[index]
        self._rows[index] = f"…{row[1 - room :]}"
        if index == self._row:
            self._column = max(0, self._column - len(row) + room)


def plain(text: str, most: int = MAX_CHARACTERS) -> list[str]:
    """Return the lines of *text* as a terminal would show them, colours gone; the newest *most* characters."""
    screen = Screen(most)
    screen.write(text)
    return screen.lines()

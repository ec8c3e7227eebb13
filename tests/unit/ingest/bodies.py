"""What the tests of uploads share: a request body of pieces, a crash, and a note of what was sealed."""


class Pieces:
    """A request body: bytes arrive piece by piece; `Crash` in place of a piece is a kill -9 at that moment."""

    def __init__(self, *pieces: bytes, length: int | None = None, crash: bool = False) -> None:
        self.pieces = [memoryview(piece) for piece in pieces if piece]
        self.length = sum(len(piece) for piece in self.pieces) if length is None else length
        self.crash = crash

    def receive(self, buffer: memoryview) -> int | None:
        if not self.pieces:
            if self.crash:
                raise Crash
            return 0
        piece = self.pieces[0]
        got = min(len(buffer), len(piece))
        buffer[:got] = piece[:got]
        if got == len(piece):
            self.pieces.pop(0)
        else:
            self.pieces[0] = piece[got:]
        return got


class Crash(BaseException):
    """Nothing catches it, as nothing catches a kill -9."""


class Seals(dict[tuple[bytes, int, bool], set[bytes]]):
    """(key, chunk number, last) -> the hashes of what was sealed under it."""

    def reused(self) -> list[tuple[bytes, int, bool]]:
        return [where for where, hashes in self.items() if len(hashes) > 1]

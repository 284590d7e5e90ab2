"""Files that must be refused are watched: nothing of them may be run."""

import encodings.cp437  # noqa: F401  (zipfile imports it when it meets odd names)
import sys

from importing import ImportCase

# Python's audit events: whatever of these happens while a file is read was caused by the file.
FORBIDDEN = ("os.", "subprocess.", "socket.", "shutil.", "pickle.", "exec", "compile", "webbrowser.", "ctypes.")
seen = None  # a list while a test looks


def _audit(event, _):
    if seen is not None and event.startswith(FORBIDDEN) and event not in ("os.listdir", "os.scandir"):
        seen.append(event)


sys.addaudithook(_audit)


class WatchedCase(ImportCase):
    @classmethod
    def setUpClass(cls):
        # Whatever is imported late is there before anything is watched.
        case = cls()
        case.setUp()
        assert case.run_import(case.kind.checkpoint, **case.kind.incomplete)[0] == 65
        case.doCleanups()

    def watched(self, *arguments, **options):
        """run_import, which may not do more than read."""
        global seen
        seen = []
        try:
            result = self.run_import(*arguments, **options)
        finally:
            happened, seen = seen, None
        self.assertEqual(happened, [])
        self.assertFalse((self.folder / "ran").exists())
        return result

    def refused(self, expected, content, *more, **options):
        file = content if not isinstance(content, bytes) else self.write("broken.pt", content)
        super().refused(expected, file, *more, run=self.watched, **options)

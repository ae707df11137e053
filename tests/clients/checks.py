"""What the Python drivers share: named checks, pictures, a receiver of webhooks. Knows no client."""

import base64
import http.server
import json
import signal
import struct
import sys
import threading
import time
import traceback

# {"client": version, "url": …, "guarded": {"url", "key"}, "limited": {"url"}, "model", "version"}: see README.md.
CONFIG = json.loads(sys.argv[1])
URL = CONFIG["url"]
MODEL, VERSION = CONFIG["model"], CONFIG["version"]
OWNER, NAME = MODEL.split("/")
REF = f"{MODEL}:{VERSION}"

# What people give as a base, beside the bare host.
BASES = ["", "/v1", "/replicate/v1"]

# The whole driver ends after this many seconds, whatever hangs.
DEADLINE = 150

_checks = []


def check(name, when=True):
    """Registers a check; `when` says whether this version of the client can do what is checked."""

    def register(test):
        if when:
            _checks.append((name, test))
        return test

    return register


def run():
    """Makes every check and prints one line for each; exit status 1 if one of them failed."""
    signal.alarm(DEADLINE)
    failed = 0
    for name, test in _checks:
        try:
            test()
        except Exception:
            failed += 1
            print(f"FAILED {name}", flush=True)
            print(f"--- {name}", file=sys.stderr)
            traceback.print_exc()
            sys.stderr.flush()
        else:
            print(f"ok {name}", flush=True)
    sys.exit(1 if failed else 0)


def named(base):
    return base or "root"


def small(**more):
    """An input that is drawn at once."""
    return {"prompt": "a square", "width": 64, "height": 64, "num_inference_steps": 2, "seed": 7, **more}


def slow(**more):
    """An input that takes longer than a second, but not long."""
    return small(num_inference_steps=200, **more)


def endless(**more):
    """An input that is still being drawn when somebody cancels it."""
    return small(num_inference_steps=500, **more)


def raises(kind, action):
    """The exception of this kind that the action ends with."""
    try:
        result = action()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}, but {result!r}")


def until(look, seconds=20):
    """Looks until what is seen is truthy, and returns it."""
    end = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def is_png(content, width=64, height=64):
    """Fails unless these bytes are a whole PNG of this size."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n", content[:40]
    assert content[-8:-4] == b"IEND", content[-12:]
    size = struct.unpack(">II", content[16:24])
    assert size == (width, height), size


def of_data_uri(uri):
    head, data = uri.split(",", 1)
    assert head == "data:image/png;base64", head
    return base64.b64decode(data, validate=True)


def progress_is_told(seen):
    """Fails unless these (percentage, current, total) are those of a bar that grew to its end."""
    currents = [current for _, current, _ in seen]
    assert currents == sorted(currents) and len(set(currents)) >= 3, seen
    assert {total for _, _, total in seen} == {200}, seen
    assert all(abs(percentage - current / total) < 0.011 for percentage, current, total in seen), seen
    assert seen[-1] == (1.0, 200, 200), seen


# A picture to upload: 1×1, opaque red.
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)


class Receiver:
    """A receiver of webhooks on loopback, which keeps what it got."""

    def __init__(self):
        got = self.got = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                got.append((dict(self.headers.items()), body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    def until_completed(self):
        """All that came until the end was told: headers in lower case, raw body, and what it says."""
        until(lambda: any("completed_at" in json.loads(body) for _, body in list(self.got)))
        lower = lambda headers: {name.lower(): value for name, value in headers.items()}
        return [(lower(headers), body, json.loads(body)) for headers, body in list(self.got)]

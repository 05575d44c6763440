#!/usr/bin/env python3
"""Records what h11, another reader of HTTP/1.1, makes of the requests that tests/differential/generate.rs makes.

`make test` needs no Python: it reads what this wrote into h11.txt. To write it anew after a change of the generator, with h11 installed:

    python3 tests/differential/record_h11.py

With `--show N` it prints case N and what h11 says of it. h11 (https://h11.readthedocs.io) is pure Python, strict, and shares no code with
httparse, on which our own parser stands.
"""

import os
import struct
import subprocess
import sys
import tempfile

import h11

HERE = os.path.dirname(os.path.abspath(__file__))


def fnv(data):
    """FNV-1a, folded to 16 bits: enough to see that two readings differ."""
    value = 0x811C9DC5
    for byte in data:
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return (value >> 16) ^ (value & 0xFFFF)


def fields_text(fields):
    """Names in lower case, values as text, a line each; the coding's name in lower case too, as h11 gives it."""
    lines = []
    for name, value in fields:
        name = name.lower().decode("ascii")
        if name == "transfer-encoding":
            value = value.lower()
        lines.append(name + ": " + value.decode("utf-8", "replace") + "\n")
    return "".join(lines).encode("utf-8")


def verdict(data, show=False):
    """Each request that was read, and how it ended: x refused, o waits for more, c closed."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=16 * 1024)
    if data:  # nothing would mean the end of the connection
        connection.receive_data(data)
    said = []
    request, body = None, b""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            if show:
                print("  refused:", error)
            return said + ["x"]
        if event is h11.NEED_DATA:
            return said + ["o"]
        if isinstance(event, h11.Request):
            request, body = event, b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            next_at = len(data) - len(connection.trailing_data[0])
            # Sent before the real response, which never accepts another protocol.
            connection.send(h11.Response(status_code=404, headers=[("Content-Length", "0")]))
            connection.send(h11.EndOfMessage())
            goes_on = connection.our_state is h11.DONE
            fields = request.headers.raw_items()
            if show:
                print("  request:", request.method, request.target, request.http_version, fields, body, "to", next_at)
            text = fields_text(fields)
            said.append("%04x%04x%04x%04x%s%d" % (
                fnv(bytes(request.method)), fnv(bytes(request.target)), fnv(text), fnv(body), "k" if goes_on else "e", next_at))
            if not goes_on:
                return said + ["c"]
            connection.start_next_cycle()
        else:
            raise SystemExit("unexpected: %r" % (event,))


def requests():
    """The generator's own words, from the test."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "requests")
        command = ["cargo", "test", "--locked", "--features", "faults,fuzzing", "--test", "differential", "--",
                   "--ignored", "--exact", "write_generated_requests_for_h11"]
        subprocess.run(command, check=True, env=dict(os.environ, DIFFERENTIAL_OUT=path), cwd=os.path.join(HERE, "../.."),
                       stdout=subprocess.DEVNULL)
        with open(path, "rb") as file:
            data = file.read()
    at, cases = 0, []
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        cases.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return cases, data


def main():
    cases, data = requests()
    if sys.argv[1:2] == ["--show"]:
        case = cases[int(sys.argv[2])]
        print(case)
        print(*verdict(case, show=True))
        return
    checksum = 0xCBF29CE484222325
    for byte in data:
        checksum = ((checksum ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    with open(os.path.join(HERE, "h11.txt"), "w", encoding="ascii") as file:
        print("h11 %s of %d cases with checksum %016x, by record_h11.py" % (h11.__version__, len(cases), checksum), file=file)
        for case in cases:
            print(*verdict(case), file=file)
    print("%d verdicts written" % len(cases))


main()

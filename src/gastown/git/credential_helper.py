"""git's credential helper: asks the control server, over its socket, for the live token of this agent's rig.

git runs this file by itself (`python -I -S credential_helper.py get`), so it uses nothing but the standard
library. The socket and the asker's key are in the environment; the token passes through this process's pipe to
git and is kept nowhere.
"""

import hashlib
import json
import os
import socket
import sys

SECONDS = 20


def main() -> int:
    """Answer one question of git. Without an answer git goes on without credentials."""
    action = sys.argv[1] if len(sys.argv) > 1 else ""
    path, key = os.environ.get("GASTOWN_GIT_SOCKET"), os.environ.get("GASTOWN_GIT_KEY")
    if action not in {"get", "erase"} or not path or not key:
        return 0
    lines = (line.rstrip("\n").partition("=") for line in sys.stdin)
    asked = {name: value for name, separator, value in lines if separator}
    question = {name: asked.get(name, "") for name in ("protocol", "host", "path")}
    if action == "erase":
        question["digest"] = hashlib.sha256(asked.get("password", "").encode()).hexdigest()
    try:
        answer = ask(path, {"action": action, "key": key, **question})
    except (OSError, TypeError, ValueError) as error:
        sys.stderr.write(f"gastown: no credentials: the control server does not answer ({type(error).__name__})\n")
        return 0
    if action == "get" and answer.get("password"):
        username, password = str(answer["username"]), str(answer["password"])
        if any(ord(character) < 32 or ord(character) == 127 for character in username + password):
            sys.stderr.write("gastown: no credentials: there is a control character in them\n")
            return 0
        sys.stdout.write(f"username={username}\npassword={password}\n")
    return 0


def ask(path: str, question: dict[str, str]) -> dict[str, str]:
    """One line of JSON there, one back."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(SECONDS)
        connection.connect(path)
        connection.sendall(json.dumps(question).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            chunk = connection.recv(65536)
            if not chunk:
                break
            answer += chunk
    return dict(json.loads(answer))


if __name__ == "__main__":
    raise SystemExit(main())

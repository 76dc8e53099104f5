"""Patches of ParlAI's chats: what is typed is echoed, and the page of `interactive_web` needs no other host."""

import json
import sys
from http import HTTPStatus

LARGEST = 2**16  # bytes of a message
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Chat</title>
<link rel="icon" href="data:,">
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 44em; margin: 0 auto; padding: 1em; color: #222 }
  #turns div { white-space: pre-wrap; overflow-wrap: anywhere; margin: .5em 0; padding: .5em .8em; border-radius: .5em;
    background: #eef2f7; font-variant-numeric: tabular-nums }
  #turns .you { background: #e6f4e6; margin-left: 3em }
  #turns .error { background: #fbe4e4 }
  form { display: flex; gap: .5em; position: sticky; bottom: 0; background: #fff; padding: .5em 0 }
  input { flex: 1; font: inherit; padding: .3em .5em }
  button { font: inherit }
</style>
<main id="turns"></main>
<form>
  <input autofocus autocomplete="off" aria-label="your message" placeholder="Type a message">
  <button>Send</button>
  <button type="button" id="restart">Start again</button>
</form>
<script>
  const turns = document.getElementById("turns"), input = document.querySelector("input")
  function show(kind, text) {
    const turn = document.createElement("div")
    turn.className = kind
    turn.textContent = text
    turns.append(turn)
    turn.scrollIntoView()
  }
  async function ask(path, body) {
    const response = await fetch(path, { method: "POST", body })
    if (!response.ok) throw new Error(await response.text())
    return response.json()
  }
  document.querySelector("form").onsubmit = async event => {
    event.preventDefault()
    const text = input.value
    input.value = ""
    if (!text) return
    show("you", text)
    try { show("model", (await ask("/interact", text)).text) } catch (error) { show("error", error.message) }
  }
  document.getElementById("restart").onclick = async () => {
    await ask("/reset", "")
    turns.replaceChildren()
  }
</script>
"""


def patch_human(local_human) -> None:
    """Echo the typed turns if stdin is not a terminal, so a chat that is piped in reads as one.

    This patch can go when ParlAI's agent for a human does so.
    """

    def echoed(prompt: str = "") -> str:
        text = input(prompt)
        if not sys.stdin.isatty():
            print(text)
        return text

    local_human.input = echoed


def patch_web(web) -> None:
    """Serve a page of our own in `parlai interactive_web`, and answer unknown paths with 404.

    ParlAI's page loads its style from other hosts, shows a list of candidates in one line, and is the answer to every
    path. This patch can go when it does none of that.
    """

    def answer(self, status: HTTPStatus, kind: str, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body.encode())

    def do_GET(self) -> None:
        if self.path == "/":
            answer(self, HTTPStatus.OK, "text/html", PAGE)
        else:
            answer(self, HTTPStatus.NOT_FOUND, "text/plain", f"there is no page {self.path}")

    def do_POST(self) -> None:
        if self.path not in ("/interact", "/reset"):
            return do_GET(self)
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > LARGEST:
            text = f"a message has at most {LARGEST:,} bytes, and says how many"
            return answer(self, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "text/plain", text)
        body, agent = self.rfile.read(int(length)), web.SHARED["agent"]
        if self.path == "/reset":
            agent.reset()
            return answer(self, HTTPStatus.OK, "application/json", "{}")
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError:
            return answer(self, HTTPStatus.BAD_REQUEST, "text/plain", "a message is UTF-8")
        reply = self._interactive_running(web.SHARED.get("opt"), text)
        answer(self, HTTPStatus.OK, "application/json", json.dumps(reply.json_safe_payload()))

    handler = web.MyHandler
    handler.do_GET = handler.do_HEAD = do_GET
    handler.do_POST = do_POST

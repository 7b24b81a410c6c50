"""
A Messages API on loopback, to test what talks to one.

`MessagesAPI` is a real HTTP server in a thread: point a client at ``api.url`` with ``api.key``, script what it
answers, and look at what it was asked. It is strict: what the API refuses, it refuses, in the API's words.
Nothing leaves the machine.

Example:
    >>> import json, urllib.request
    >>> from conversation_store.testing import Answer, Fault, MessagesAPI
    >>> def ask(api, text):
    ...     message = {"role": "user", "content": text}
    ...     body = {"model": "claude-sonnet-5-5", "max_tokens": 64, "messages": [message]}
    ...     headers = {"x-api-key": api.key, "anthropic-version": "2026-10-21", "content-type": "application/json"}
    ...     data = json.dumps(body).encode()
    ...     request = urllib.request.Request(api.url + "/v1/messages", data, headers)
    ...     with urllib.request.urlopen(request) as response:
    ...         return json.load(response)["content"][0]["text"]
    >>> with MessagesAPI() as api:
    ...     api.answer("It is a small thing.", Answer("And a quick one.", usage={"input_tokens": 7}))
    ...     first, second, third = ask(api, "What is an ant?"), ask(api, "And?"), ask(api, "Hello, Claude")
    ...     asked = api.requests[-1].body["messages"]
    >>> first, second, third
    ('It is a small thing.', 'And a quick one.', 'Hello!')
    >>> asked
    [{'role': 'user', 'content': 'Hello, Claude'}]

The third question had no scripted answer: the offline model answered it, the same way every time. Faults are
scripted like answers: ``api.fail(Fault.status(529, retry_after=0.01), times=2)`` is an overloaded API that
recovers at the third try; `Fault.reset`, `Fault.cut`, `Fault.trickle` and the others are the network's ways to fail.

Answers come in every shape the API has:

- `Answer.calls`, `Answer.pause`, `Answer.refusal`, `Answer.fallback` and `Answer.compaction` are the turns that need
  something more; ids, the signatures of thinking, and which call a result belongs to are filled in.
- Thinking is signed over all that precedes it, and checked when it comes back: by the models that always do so, by the
  others with ``MessagesAPI(binding=True)``, or as the request asks. ``Answer("Yes.", thinking="Hm.")`` thinks first;
  the offline model thinks where ``thinking`` asks for it, and finishes a paused turn.
- ``usage`` tells what the cache markers of a request wrote and read, from the hashes of prefixes remembered;
  ``MessagesAPI(clock=...)`` lets them grow old at once, and containers too.
- ``Answer(..., streaming=Streaming(...))`` chooses how an answer is streamed: pings, blocks side by side, several
  ``message_delta`` events, events and deltas nobody knows, pauses between them. `Fault.interrupt` ends a stream in an
  error, and `Fault.cut` after any byte.

Where a test runs no Python, ``python -m conversation_store.testing`` serves until it is interrupted.

This package needs the standard library alone.
"""

from conversation_store.testing.answers import Answer, Fault, Scripted
from conversation_store.testing.models import MODELS, Model
from conversation_store.testing.offline import compose, echo
from conversation_store.testing.server import MessagesAPI
from conversation_store.testing.streams import Streaming
from conversation_store.testing.wire import Headers, Request

__all__ = [
    "MODELS",
    "Answer",
    "Fault",
    "Headers",
    "MessagesAPI",
    "Model",
    "Request",
    "Scripted",
    "Streaming",
    "compose",
    "echo",
]

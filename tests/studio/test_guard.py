"""What the guard refuses, each with the rule that does it: without that rule, the same request reaches the app."""

import base64
import logging

import pytest
from starlette.responses import JSONResponse

from mlx_sd.studio.guard import RULES, Guard, Policy, rules
from tests.studio.asgi import HOST, ask

TOKEN = "a-token-of-many-letters"
JSON = ("content-type", "application/json")
OWN = f"http://{HOST}"


async def app(scope, receive, send):
    """An app behind the guard, that any request may reach."""
    message = {"more_body": True}
    size = 0
    while message.get("more_body"):
        message = await receive()
        size += len(message.get("body", b""))
    await JSONResponse({"reached": scope["path"], "size": size})(scope, receive, send)


def guarded(without=None, **policy):
    """Returns the app behind all rules, or all but one."""
    return Guard(app, Policy(**policy), [rule for rule in RULES if rule is not without])


def get(target="/api/state", *headers, host=HOST):
    return {"method": "GET", "target": target, "headers": list(headers), "host": host}


def post(*headers, target="/api/jobs", body=b"{}", host=HOST):
    return {"method": "POST", "target": target, "headers": list(headers), "body": body, "host": host}


def fetch(site, mode, destination):
    """Returns what a browser says about a request: who caused it, and for what."""
    return ("sec-fetch-site", site), ("sec-fetch-mode", mode), ("sec-fetch-dest", destination)


def form(origin, kind="application/x-www-form-urlencoded", site="cross-site"):
    """Returns what a browser sends when a page of `origin` submits a form to the server."""
    headers = [
        ("content-type", kind),
        ("origin", origin),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", "document"),
    ]
    return post(*headers, ("sec-fetch-site", site), body=b'{"request": {}}')


# (rules that each refuse it, request, status with all of them)
ATTACKS = {
    "DNS rebinding": ([rules.known_host], get(host="evil.example:7860"), 421),
    "DNS rebinding with a matching origin": (
        [rules.known_host],
        post(JSON, ("origin", "http://evil.example:7860"), ("sec-fetch-site", "same-origin"), host="evil.example:7860"),
        421,
    ),
    "a name that begins like ours": ([rules.known_host], get(host="127.0.0.1.evil.example"), 421),
    "a name that ends like ours": ([rules.known_host], get(host="evil-localhost"), 421),
    "a host with a user": ([rules.known_host], get(host="localhost@evil.example"), 400),
    "a host with a path": ([rules.known_host], get(host="localhost/evil.example"), 400),
    "a trailing dot": ([rules.known_host], get(host="localhost.:7860"), 421),
    "a host as one number": ([rules.known_host], get(host="2130706433"), 421),
    "a short host": ([rules.known_host], get(host="127.1"), 421),
    "the host of all addresses": ([rules.known_host], get(host="0.0.0.0:7860"), 421),
    "another host of the loopback": ([rules.known_host], get(host="127.0.0.2"), 421),
    "IPv6 without brackets": ([rules.known_host], get(host="::1"), 400),
    "IPv6 in its long form": ([rules.known_host], get(host="[0:0:0:0:0:0:0:1]"), 421),
    "IPv4 inside IPv6": ([rules.known_host], get(host="[::ffff:127.0.0.1]"), 421),
    "a host with a zone": ([rules.known_host], get(host="[::1%25lo]"), 400),
    "no host": ([rules.known_host], get(host=None), 400),
    "an empty host": ([rules.known_host], get(host=""), 400),
    "a host without the port's number": ([rules.known_host], get(host="localhost:"), 400),
    "a port that there is not": ([rules.known_host], get(host="localhost:99999"), 400),
    "a host of another alphabet": ([rules.known_host], get(host="l\u00f6calhost"), 400),
    "two hosts": ([rules.single_headers], get("/api/state", ("host", "evil.example")), 400),
    "two origins": ([rules.single_headers], post(JSON, ("origin", OWN), ("origin", "http://evil.example")), 400),
    "two lengths": ([rules.single_headers], post(JSON, ("content-length", "2"), ("transfer-encoding", "chunked")), 400),
    "JSON from another origin": ([rules.own_origin], post(JSON, ("origin", "http://evil.example")), 403),
    "JSON from another port": ([rules.own_origin], post(JSON, ("origin", "http://127.0.0.1:8188")), 403),
    "localhost for 127.0.0.1": ([rules.own_origin], post(JSON, ("origin", "http://localhost:7860")), 403),
    "https for http": ([rules.own_origin], post(JSON, ("origin", f"https://{HOST}")), 403),
    "the null origin": ([rules.own_origin], post(JSON, ("origin", "null")), 403),
    "an empty origin": ([rules.own_origin], post(JSON, ("origin", "")), 403),
    "an origin that begins like ours": ([rules.own_origin], post(JSON, ("origin", f"{OWN}.evil.example")), 403),
    "an origin of an extension": ([rules.own_origin], post(JSON, ("origin", "chrome-extension://abcdef")), 403),
    "a list from another site": ([rules.own_origin], get("/api/jobs", ("origin", "https://evil.example")), 403),
    "an <img> of another site": (
        [rules.own_site],
        get("/sdapi/v1/progress", *fetch("cross-site", "no-cors", "image")),
        403,
    ),
    "a <script> of another port": ([rules.own_site], get("/v1/models", ("sec-fetch-site", "same-site")), 403),
    "a frame with the page": (
        [rules.own_site],
        get("/", *fetch("cross-site", "navigate", "iframe")),
        403,
    ),
    "a link to the API": (
        [rules.own_site],
        get("/api/jobs", *fetch("cross-site", "navigate", "document")),
        403,
    ),
    "a fetch of the page by another site": (
        [rules.own_site],
        get("/", *fetch("cross-site", "no-cors", "empty")),
        403,
    ),
    "a form of another site": ([rules.own_origin, rules.own_site, rules.exact_type], form("http://evil.example"), 403),
    "a form in text/plain": (
        [rules.own_origin, rules.own_site, rules.exact_type],
        form("null", "text/plain"),
        403,
    ),
    "text/plain": ([rules.exact_type], post(("content-type", "text/plain")), 415),
    "text/plain that mentions JSON": ([rules.exact_type], post(("content-type", "text/plain; application/json")), 415),
    "JSON with a strange parameter": ([rules.exact_type], post(("content-type", "application/json; x=y")), 415),
    "JSON in UTF-16": ([rules.exact_type], post(("content-type", "application/json; charset=utf-16")), 415),
    "almost JSON": ([rules.exact_type], post(("content-type", "application/json5")), 415),
    "two types in one": ([rules.exact_type], post(("content-type", "text/plain, application/json")), 415),
    "urlencoded": ([rules.exact_type], post(("content-type", "application/x-www-form-urlencoded")), 415),
    "no type": ([rules.exact_type], post(), 415),
    "multipart for a JSON route": ([rules.exact_type], post(("content-type", "multipart/form-data; boundary=x")), 415),
    "JSON for a multipart route": ([rules.exact_type], post(JSON, target="/v1/images/edits"), 415),
    "a boundary of a thousand letters": (
        [rules.exact_type],
        post(("content-type", f"multipart/form-data; boundary={'x' * 1000}"), target="/v1/images/edits"),
        415,
    ),
    "multipart without a boundary": (
        [rules.exact_type],
        post(("content-type", "multipart/form-data"), target="/v1/images/edits"),
        415,
    ),
    "SVG as a picture": ([rules.exact_type], post(("content-type", "image/svg+xml"), target="/api/images"), 415),
    "a form as a picture": (
        [rules.exact_type],
        post(("content-type", "multipart/form-data; boundary=x"), target="/api/images"),
        415,
    ),
    "a compressed body": ([rules.expected_body], post(JSON, ("content-encoding", "gzip")), 415),
    "a body of GET": ([rules.expected_body], get("/api/jobs", ("content-length", "2")), 400),
    "too many bytes announced": ([rules.bounded_length], post(JSON, ("content-length", "1048577")), 413),
    "far too many bytes": ([rules.bounded_length], post(JSON, ("content-length", "9" * 50)), 413),
    "a negative length": ([rules.bounded_length], post(JSON, ("content-length", "-1")), 400),
    "the question whether other origins may": ([rules.known_method], {"method": "OPTIONS", "target": "/api/jobs"}, 405),
    "TRACE": ([rules.known_method], {"method": "TRACE", "target": "/api/jobs"}, 405),
    "a path above": ([rules.plain_path], get("/api/gallery/../../secret.png"), 400),
    "a coded path above": ([rules.plain_path], get("/api/gallery/%2e%2e/secret.png"), 400),
    "a coded slash": ([rules.plain_path], get("/api/gallery/..%2f..%2fsecret.png"), 400),
    "a coded slash in a name": ([rules.plain_path], get("/api/gallery/a%2Fb.png"), 400),
    "a backslash": ([rules.plain_path], get("/api/gallery/..\\secret.png"), 400),
    "a coded backslash": ([rules.plain_path], get("/api/gallery/..%5csecret.png"), 400),
    "a NUL": ([rules.plain_path], get("/api/gallery/a.png%00.txt"), 400),
    "a new line": ([rules.plain_path], get("/api/gallery/a%0d%0aSet-Cookie:%20a"), 400),
    "no UTF-8": ([rules.plain_path], get("/api/gallery/%ff%fe.png"), 400),
    "a very long path": ([rules.plain_path], get("/api/gallery/" + "a" * 5000), 414),
    "the absolute form": ([rules.plain_path], get("http://evil.example/api/jobs"), 400),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_with_one_line(name):
    _, request, status = ATTACKS[name]
    answer = ask(guarded(), **request)
    assert answer.status == status and b"reached" not in answer.body
    text = answer.body.decode()
    assert "\n" not in text and "Traceback" not in text and len(text) < 400
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_gets_through_without_the_rules_against_it(name):
    against, request, _ = ATTACKS[name]
    answer = ask(Guard(app, Policy(), [rule for rule in RULES if rule not in against]), **request)
    assert answer.status == 200 and b"reached" in answer.body


@pytest.mark.parametrize(
    "rule", [rule for rule in RULES if rule is not rules.valid_token], ids=lambda rule: rule.__name__
)
def test_every_rule_alone_stops_an_attack(rule):
    assert any(against == [rule] for against, _, _ in ATTACKS.values())


WELCOME = {
    "curl": get(),
    "curl with localhost": get(host="localhost:1"),
    "upper case": get(host="LOCALHOST:7860"),
    "IPv6": get(host="[::1]:7860"),
    "no port": get(host="127.0.0.1"),
    "the page's own GET": get("/api/jobs", ("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors")),
    "the page's own POST": post(JSON, ("origin", OWN), ("sec-fetch-site", "same-origin")),
    "the page at localhost": post(JSON, ("origin", "http://localhost:80"), host="localhost"),
    "the address typed": get("/", ("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")),
    "a link to the page": get("/", *fetch("cross-site", "navigate", "document")),
    "JSON with its charset": post(("content-type", "application/json; charset=utf-8")),
    "JSON with its charset in quotes": post(("content-type", 'Application/JSON;charset="UTF-8"')),
    "a POST of nothing": post(target="/sdapi/v1/interrupt", body=b""),
    "a GET with a type": get("/v1/models", JSON),
    "a raw picture": post(("content-type", "image/webp"), target="/api/images", body=b"RIFF"),
    "a form of the OpenAI client": post(
        ("content-type", "multipart/form-data; boundary=----WebKitFormBoundary7MA4YW"), target="/v1/images/edits"
    ),
    "a name in another alphabet": get("/api/gallery/%C3%A9t%C3%A9%20%E5%A4%A7.png"),
    "a name with dots": get("/api/gallery/a..b.png"),
    "the OpenAI client's own headers": post(JSON, ("authorization", "Bearer x"), ("x-stainless-lang", "python")),
    "chunks": post(JSON, ("transfer-encoding", "chunked")),
    "DELETE": {"method": "DELETE", "target": "/api/jobs/0123456789abcdef"},
}


@pytest.mark.parametrize("name", WELCOME)
def test_who_may_ask_is_answered(name):
    answer = ask(guarded(), **WELCOME[name])
    assert answer.status == 200, answer.body


@pytest.mark.parametrize("name", ["192.168.1.5", "[fe80::1]", "10.0.0.1"])
def test_with_listen_any_address_in_numbers_is_a_host_and_no_other_name(name):
    listening = guarded(any_address=True, names=frozenset({"localhost", "studio.local"}), token=TOKEN)
    bearer = ("authorization", f"Bearer {TOKEN}")
    assert ask(listening, **get("/api/state", bearer, host=f"{name}:7860")).status == 200
    assert ask(listening, **get("/api/state", bearer, host="studio.local:7860")).status == 200
    assert ask(listening, **get("/api/state", bearer, host="evil.example")).status == 421
    assert ask(guarded(), **get(host=name)).status == 421


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


WRONG = [None, "", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Basic !!!", basic("u", ""), basic(TOKEN, "u"),
         f"Token {TOKEN}", "Bearer \u00e9", basic("\u00e9", "\u00e9"), f"bearer{TOKEN}"]  # fmt: skip


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize(
    "path", ["/api/state", "/v1/models", "/sdapi/v1/options", "/queue/status", "/api/gallery/a/picture"]
)
def test_without_the_token_nothing_but_the_page_is_served(value, path):
    headers = [] if value is None else [("authorization", value)]
    answer = ask(guarded(token=TOKEN), **get(path, *headers))
    assert answer.status == 401
    assert ("www-authenticate" in answer.headers) == (not path.startswith("/api"))
    assert ask(guarded(without=rules.valid_token, token=TOKEN), **get(path, *headers)).status == 200


@pytest.mark.parametrize(
    "value", [f"Bearer {TOKEN}", f"bearer {TOKEN}", basic("", TOKEN), basic("any:user"[:3], TOKEN)]
)
def test_the_token_opens_as_bearer_and_as_password(value):
    assert ask(guarded(token=TOKEN), **get("/api/state", ("authorization", value))).status == 200


@pytest.mark.parametrize("path", ["/", "/page/app.js", "/favicon.ico"])
def test_the_page_loads_without_the_token(path):
    assert ask(guarded(token=TOKEN), **get(path)).status == 200


def test_a_token_in_the_address_opens_nothing():
    assert ask(guarded(token=TOKEN), **get(f"/api/state?token={TOKEN}")).status == 401


def test_the_token_is_compared_in_constant_time(monkeypatch):
    calls = []

    def compare(a, b):
        """Notes that it was asked."""
        calls.append((a, b))
        return True

    monkeypatch.setattr(rules.secrets, "compare_digest", compare)
    assert ask(guarded(token=TOKEN), **get("/api/state", ("authorization", "Bearer wrong"))).status == 200
    assert calls == [(b"wrong", TOKEN.encode())]


def test_the_token_is_in_no_log_and_no_representation(caplog):
    caplog.set_level(logging.DEBUG)

    async def broken(scope, receive, send):
        """Fails without a named error."""
        raise RuntimeError("broken")

    ask(Guard(broken, Policy(token=TOKEN)), **get("/api/state", ("authorization", f"Bearer {TOKEN}")))
    assert "broken" in caplog.text and TOKEN not in caplog.text
    assert TOKEN not in repr(Policy(token=TOKEN))

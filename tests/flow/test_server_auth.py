"""Tokens and keys: what is valid opens its project, whatever else gets one and the same 401."""

from __future__ import annotations

import base64
import json
import os
import secrets
import time

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from serving import SECRET, bearer, served, token

import gnomon
from gnomon.config import Settings
from gnomon.errors import InvalidValue

RSA, OTHER_RSA = (rsa.generate_private_key(65537, 2048) for _ in range(2))
EC, ED = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()


def pem(key) -> str:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()  # fmt: skip


@pytest.fixture(scope="module")
def keyfile(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "public.pem"
    path.write_text(pem(RSA) + pem(EC) + pem(ED))
    return path


@pytest.fixture(scope="module")
def service(keyfile):
    with served(jwt_public_key_file=(str(keyfile),), jwt_issuer="us", jwt_audience="gnomon") as found:
        yield found


def told(**claims):
    return {"sub": "u1", "exp": int(time.time()) + 60, "scope": "read", "iss": "us", "aud": "gnomon", **claims}


def signed(key=SECRET, algorithm="HS256", headers=None, **claims) -> str:
    return jwt.encode({k: v for k, v in told(**claims).items() if v is not None}, key, algorithm, headers)


def b64(value) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def by_hand(header, claims, signature="") -> str:
    return f"{b64(header)}.{b64(claims)}.{signature}"


def status(service, text: str, path="/admin/books") -> int:
    return service.get(path, headers={"Authorization": f"Bearer {text}"}).status_code


@pytest.mark.parametrize(("key", "algorithm"), [(SECRET, "HS256"), (RSA, "RS256"), (EC, "ES256"), (ED, "EdDSA")])
def test_tokens_of_every_algorithm_open(service, key, algorithm):
    for _ in range(2):  # checked, and remembered
        assert status(service, signed(key, algorithm)) == 200


def hostile() -> dict[str, str]:
    good = signed()
    head, body, mark = good.split(".")
    hs = {"alg": "HS256", "typ": "JWT"}
    return {
        "none": by_hand({"alg": "none"}, told()), "None": by_hand({"alg": "None"}, told(), mark),
        "other secret": signed(secrets.token_urlsafe(32)), "other rsa key": signed(OTHER_RSA, "RS256"),
        "hs384": signed(SECRET, "HS384"), "rsa with ps256": signed(RSA, "PS256"),
        "public key as secret": by_hand(hs, told(), _hmac_by(pem(RSA), hs)),
        "swapped algorithm": by_hand({"alg": "RS256"}, told(), mark), "cut": f"{head}.{body}.{mark[:-4]}",
        "changed": f"{head}.{b64(told(scope='admin'))}.{mark}", "no signature": f"{head}.{body}.", "one part": head,
        "two parts": f"{head}.{body}", "four parts": f"{good}.x", "empty parts": "..", "word": "x", "spaces": "a b c",
        "ended": signed(exp=int(time.time()) - 1), "no exp": signed(exp=None), "text exp": by_signing({"exp": "soon"}),
        "nan exp": by_signing({"exp": float("nan")}), "endless exp": by_signing({"exp": float("inf")}),
        "true exp": by_signing({"exp": True}), "no sub": signed(sub=None), "empty sub": signed(sub=""),
        "number sub": by_signing({"sub": 7}), "long sub": signed(sub="x" * 201), "nul sub": signed(sub="a\0b"),
        "surrogate sub": signed(sub="\ud800"), "not yet": signed(nbf=int(time.time()) + 600),
        "other issuer": signed(iss="them"), "no issuer": signed(iss=None), "other audience": signed(aud="x"),
        "no audience": signed(aud=None), "scope number": signed(scope=7), "scope numbers": signed(scope=[1]),
        "project number": signed(project=7), "empty project": signed(project=""), "nul project": signed(project="\0"),
        "critical": signed(headers={"crit": ["exp"]}), "unencoded": signed(headers={"b64": False, "crit": ["b64"]}),
        "deep": by_hand(b"[" * 4_000, told(), mark), "deep claims": f"{head}.{b64(b'[' * 4_000)}.{mark}",
        "list header": by_hand([], told(), mark), "huge": signed(note="x" * 9_000),
    }  # fmt: skip


def _hmac_by(secret: str, header) -> str:
    import hashlib
    import hmac

    return b64(hmac.new(secret.encode(), f"{b64(header)}.{b64(told())}".encode(), hashlib.sha256).digest())


def by_signing(claims) -> str:
    """A token that PyJWT would not make: signed by hand, so that only its claims are at fault."""
    import hashlib
    import hmac

    start = f"{b64({'alg': 'HS256', 'typ': 'JWT'})}.{b64({**told(), **claims})}"
    return f"{start}.{b64(hmac.new(SECRET.encode(), start.encode(), hashlib.sha256).digest())}"


def test_hostile_tokens_all_get_the_same_answer(service):
    answers = set()
    for name, text in hostile().items():
        try:
            answer = service.get(
                "/admin/books", headers={"Authorization": b"Bearer " + text.encode("utf-8", "replace")}
            )
        except Exception as error:  # the client would not send it
            raise AssertionError(name) from error
        assert answer.status_code == 401, name
        answers.add((answer.text, answer.headers["www-authenticate"]))
    for headers in ({}, {"Authorization": "Basic dTpw"}, {"Authorization": "Bearer"}, {"Authorization": signed()},
                    {"X-Gnomon-Key": "gwk_x"}, {"X-Gnomon-Key": "gwk_000000000000_" + "x" * 43}):  # fmt: skip
        answer = service.get("/admin/books", headers=headers)
        assert answer.status_code == 401
        answers.add((answer.text, answer.headers["www-authenticate"]))
    assert len(answers) == 1
    assert status(service, by_signing({})) == 200  # signing by hand is no fault in itself


def test_scopes_are_read_from_texts_and_lists_and_those_of_others_are_left_out(service):
    assert status(service, signed(scope="openid read")) == 200
    assert status(service, signed(scope=["profile", "admin"])) == 200
    assert status(service, signed(scope="ingest openid")) == 403
    assert status(service, signed(scope=None)) == 403
    entries = service.engine.get_access_log(user_filter="u1")
    assert any((entry.operation, entry.outcome) == ("books", "forbidden") for entry in entries)


def test_keys_rotate_without_a_restart(tmp_path):
    path = tmp_path / "keys.pem"
    path.write_text(pem(RSA))
    with served(jwt_public_key_file=(str(path),)) as service:
        old, new = signed(RSA, "RS256"), signed(OTHER_RSA, "RS256")
        assert (status(service, old), status(service, new)) == (200, 401)
        path.write_text(pem(OTHER_RSA))
        os.utime(path, ns=(1, 1))
        deadline = time.monotonic() + 10
        while status(service, new) != 200 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert (status(service, old), status(service, new)) == (401, 200)
        path.write_text("nonsense")  # the keys stay as they were
        time.sleep(1.2)
        assert status(service, new) == 200


def test_jwks_by_kid(tmp_path):
    entries = []
    for key, kid in ((RSA, "a"), (OTHER_RSA, "b")):
        entries.append({**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())), "kid": kid, "use": "sig"})
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": entries}))
    with served(jwt_jwks_file=str(path)) as service:
        assert status(service, signed(RSA, "RS256", {"kid": "a"})) == 200
        assert status(service, signed(OTHER_RSA, "RS256", {"kid": "b"})) == 200
        assert status(service, signed(RSA, "RS256", {"kid": "b"})) == 401
        assert status(service, signed(RSA, "RS256", {"kid": "c"})) == 401
        assert status(service, signed(RSA, "RS256")) == 200


@pytest.mark.parametrize(
    "secret", ["abc123", "x" * 40, "changeme" * 5, "your-secret-key-your-secret-key-1234", "0123456789" * 4]
)
def test_weak_secrets_are_refused_at_the_start(secret):
    with pytest.raises(InvalidValue) as caught:
        gnomon.create_app(settings=Settings(database_url=":memory:", jwt_secret_key=(secret,)))
    assert caught.value.code == "weak-secret" and secret not in str(caught.value)


def test_files_that_hold_no_public_key_are_refused_at_the_start(tmp_path):
    private = RSA.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )  # fmt: skip
    small = rsa.generate_private_key(65537, 1024)
    for content in (b"", b"nonsense", private, pem(small).encode(), pem(RSA)[:-60].encode()):
        (tmp_path / "k").write_bytes(content)
        with pytest.raises(InvalidValue) as caught:
            gnomon.create_app(settings=Settings(database_url=":memory:", jwt_public_key_file=(str(tmp_path / "k"),)))
        assert caught.value.code == "bad-key-file"
    with pytest.raises(InvalidValue):
        gnomon.create_app(settings=Settings(database_url=":memory:", jwt_algorithms=("none",)))


def test_algorithms_can_be_narrowed(keyfile):
    with served(jwt_public_key_file=(str(keyfile),), jwt_algorithms=("ES256",)) as service:
        assert status(service, signed(EC, "ES256")) == 200
        assert status(service, signed()) == status(service, signed(RSA, "RS256")) == 401


def test_write_keys_send_and_do_nothing_else():
    with served() as service:
        admin = {"scope": "admin"}
        made = service.post("/admin/keys", {"name": "shop", "origins": ["https://shop.example"]}, claims=admin)
        assert made.status_code == 201
        key, id_ = made.json()["key"], made.json()["id"]
        assert key not in service.get("/admin/keys", claims=admin).text
        service.app_keys().forget()
        event = {"type": "x", "user_id": "anybody"}
        own = {"Origin": "https://shop.example"}
        for headers in ({"Authorization": f"Bearer {key}"}, {"X-Gnomon-Key": key}, {"X-Gnomon-Key": key, **own}):
            assert service.post("/ingest", event, headers=headers).status_code == 200
        beacon = service.post(
            f"/ingest?key={key}", content=json.dumps(event), headers={"Content-Type": "text/plain", **own}
        )
        assert beacon.status_code == 200 and beacon.headers["access-control-allow-origin"] == "https://shop.example"
        away = service.post("/ingest", event, headers={"X-Gnomon-Key": key, "Origin": "https://evil.example"})
        assert away.status_code == 403 and "access-control-allow-origin" not in away.headers
        assert service.get("/admin/books", headers={"X-Gnomon-Key": key}).status_code == 403
        assert service.post("/ingest?project=other", event, headers={"X-Gnomon-Key": key}).status_code == 403
        assert (
            service.client.delete(
                f"/api/analytics/admin/keys/{id_}", headers=bearer(scope="admin", project="other")
            ).status_code
            == 404
        )
        assert service.client.delete(f"/api/analytics/admin/keys/{id_}", headers=bearer(**admin)).status_code == 200
        assert service.post("/ingest", event, headers={"X-Gnomon-Key": key}).status_code == 401
        operations = [entry.operation for entry in service.engine.get_access_log()]
        assert {"make_write_key", "revoke_write_key"} <= set(operations)
        for origins in (["https://shop.example/"], ["*"], ["javascript:x"], ["https://a b"], ["null"]):
            assert service.post("/admin/keys", {"name": "x", "origins": origins}, claims=admin).status_code == 422


def test_a_token_of_every_project_chooses():
    with served() as service:
        every = {"project": "*", "scope": "ingest:any read"}
        assert service.post("/ingest?project=a", {"type": "x"}, claims=every).status_code == 200
        assert service.get("/admin/books?project=a", claims=every).json()["event"]["received"] == 1
        assert service.get("/admin/books", claims=every).json()["event"]["received"] == 0
        assert service.get("/admin/books?project=a", claims={"project": "b"}).status_code == 403
        assert service.get("/admin/books?project=%00", claims=every).status_code == 422


def test_the_shape_of_a_token_for_development(monkeypatch):
    settings = Settings(jwt_secret_key=(SECRET,), jwt_issuer="us")
    from gnomon.server.auth import minted

    found = jwt.decode(minted(settings, sub="a", project="p", scope="read", seconds=60), SECRET, ["HS256"], issuer="us")
    assert (found["sub"], found["project"], found["scope"]) == ("a", "p", "read")
    assert token(sub="x")

"""Settings: whatever is wrong in them is one clear line."""

from pathlib import Path

import pytest

from shared.config import load
from shared.errors import ConfigError


def _load(tmp_path: Path, text: str | bytes, **environ: str) -> None:
    file = tmp_path / "backbeat.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    load({"BACKBEAT_CONFIG": str(file), **environ})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("database_url = 5", "backbeat.toml: database_url must be a text"),
        ("spool_dir = []", "backbeat.toml: spool_dir must be a text"),
        ('spool_dir = "a\\u0000b"', "backbeat.toml: spool_dir must be UTF-8 text without NUL"),
        ("definitions = 7", "definitions must be a text or a list of texts"),
        ('definitions = ["a", 1]', "definitions must be a text"),
        ("telemetry = true", "telemetry must be a text"),
        ("providers = 1", "providers must be a table"),
        ("providers.openai = 1", "providers.openai must be a table"),
        (
            "[providers.nobody]",
            "unknown provider 'nobody' of kind None. Vendors are anthropic and openai",
        ),
        ("[providers.house]\nkind = 'compatible'", "unknown provider 'house'"),
        ("[providers.house]\nkind = 'grpc'\nbase_url = 'http://h'", "unknown provider 'house'"),
        ("[providers.openai]\nkind = 'compatible'", "unknown provider 'openai' of kind 'compatible'"),
        ("[providers.openai]\nbaseurl = 'x'", "providers.openai: unknown key 'baseurl'. Known keys: base_url, "),
        ("[providers.openai]\nbase_url = 1", "providers.openai.base_url must be a text"),
        ("[providers.openai]\napi_key_file = 1", "providers.openai.api_key_file must be a text"),
        ("[providers.openai]\nsimulated = 'no'", "providers.openai.simulated must be true or false"),
        ("[providers.openai]\napi_key_file = 'backbeat.toml'\n#\xff".encode("latin-1"), "cannot be read"),
        (b"\xff", "backbeat.toml cannot be read"),
        ("a = " + "[" * 5000, "backbeat.toml cannot be read"),
        ("a = " + "9" * 5000, "backbeat.toml cannot be read"),
    ],
)
def test_what_is_wrong_in_the_file(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        _load(tmp_path, text)
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_an_environment_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="BACKBEAT_DATABASE_URL: database_url must be UTF-8 text"):
        _load(tmp_path, "", BACKBEAT_DATABASE_URL="postgresql://\udcff")
    secret = tmp_path / "key"
    secret.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="key cannot be read"):
        _load(tmp_path, "", OPENAI_API_KEY_FILE=str(secret))


def test_what_is_right(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-1\n")
    file = tmp_path / "backbeat.toml"
    file.write_text(
        'definitions = ["a", "b"]\nspool_dir = "s"\n'
        '[providers.openai]\napi_key_file = "key"\n[providers.anthropic]\nsimulated = true\n'
    )
    config = load({"BACKBEAT_CONFIG": str(file), "BACKBEAT_DATABASE_URL": "postgresql://x"}, token_file=Path("t"))
    assert (config.definitions, config.spool_dir, config.token_file) == (("a", "b"), Path("s"), Path("t"))
    assert config.database_url == "postgresql://x"
    assert {name: (one.api_key, one.simulated) for name, one in config.providers.items()} == {
        "openai": ("sk-1", False),
        "anthropic": ("simulated", True),
    }
    assert load({"BACKBEAT_CONFIG": str(file), "BACKBEAT_DEFINITIONS": " c, ,d"}).definitions == ("c", "d")


def test_compatible_endpoints_have_names_and_keys_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-file")
    file = tmp_path / "backbeat.toml"
    table = 'kind = "compatible"\nbase_url = "http://h/v1"\n'
    file.write_text(
        f'[providers.house]\n{table}[providers.router]\n{table}[providers."my-own"]\n{table}api_key_file = "key"'
    )
    config = load({"BACKBEAT_CONFIG": str(file), "ROUTER_API_KEY": "from-env", "HOUSE_BASE_URL": "http://ignored"})
    assert {name: (one.adapter, one.base_url, one.api_key) for name, one in config.providers.items()} == {
        "house": ("compatible", "http://h/v1", None),
        "router": ("compatible", "http://h/v1", "from-env"),
        "my-own": ("compatible", "http://h/v1", "from-file"),
    }
    assert load({"BACKBEAT_CONFIG": str(file), "MY_OWN_API_KEY": "x"}).providers["my-own"].api_key == "x"

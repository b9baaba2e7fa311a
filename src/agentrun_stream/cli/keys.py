"""`agentrun keys new|add|list|revoke|export`: private keys, and the registries that say whom a workspace trusts.

Must not live here: the operations (trust/), what a key is trusted for (model/trust.py).
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from agentrun_stream.cli.common import TrustOption, WorkspaceOption, YesOption, confirm, read_input, since, trust_folder
from agentrun_stream.cli.output import Output, OutputOption, as_json, say, table, write
from agentrun_stream.codec import keynames
from agentrun_stream.codec.jwks import registry_of
from agentrun_stream.errors import UsageError
from agentrun_stream.trust import manage, pem
from agentrun_stream.trust.manage import Revocation, Scope

app = typer.Typer(name="keys", help="Keys that sign runs, and the registries that trust them.", no_args_is_help=True)

AgentOption = Annotated[
    list[str] | None,
    typer.Option(
        "--agent", help="Agent that it may sign for, `x*` for a prefix; may be repeated; default: every agent."
    ),
]
ExpiresOption = Annotated[
    str | None, typer.Option("--expires", help="When it ends: a date or time, or `90d` from now. Default: never.")
]
WhyOption = Annotated[str | None, typer.Option("--why", help="Goes into the log of key operations.")]
KID: Final = "The key's did:key, its kid, or the start of that (after `--` where it begins with a dash)."
_DAYS: Final = {"d": 1, "w": 7}
_COLUMNS: Final = {
    "kid": "kid",
    "state": "state",
    "agents": "agents",
    "expires": "expires",
    "revoked_at": "revoked",
    "compromised_since": "compromised",
    "reason": "reason",
}


@app.command(epilog="Example: agentrun keys new --agent 'billing/*' --expires 365d --out billing.pem -w acme")
def new(
    out: Annotated[
        Path | None, typer.Option("--out", help="File of the private key; default: agentrun-<kid>.pem here.")
    ] = None,
    agent: AgentOption = None,
    expires: ExpiresOption = None,
    passphrase_file: Annotated[
        Path | None, typer.Option("--passphrase-file", help="Encrypt the key with the first line of this file.")
    ] = None,
    ask: Annotated[bool, typer.Option("--passphrase", help="Encrypt the key; asks for the passphrase.")] = False,
    register: Annotated[
        bool, typer.Option("--register/--no-register", help="Put the public half into the workspace's registry.")
    ] = True,
    workspace: WorkspaceOption = "default",
    trust: TrustOption = None,
    why: WhyOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a key: the private half as PKCS#8 PEM for its owner alone, the public half in the registry."""
    passphrase = _passphrase(passphrase_file, ask=ask)
    scope = Scope(tuple(agent or ()), exp=_ends(expires), why=why)
    folder = trust_folder(trust)
    seed = manage.new_seed()
    public = manage.public_of_seed(seed)
    kid = keynames.kid_of(public)
    file = out or Path(f"agentrun-{kid[:12]}.pem")
    pem.write_private(file, seed, passphrase)
    entry = manage.add(folder, workspace, public, scope) if register else manage.entry_of(public, scope)
    told = {"kid": kid, "did": keynames.did_of(public), "file": str(file), "encrypted": passphrase is not None}
    told |= {"workspace": workspace, "registered": register, "jwk": entry}
    if output is Output.JSON:
        as_json(told)
        return
    rows = [{"name": name, "value": told[name]} for name in ("kid", "did", "file", "encrypted", "registered")]
    table("", {"name": "", "value": ""}, rows)
    if passphrase is None:
        say("The private key is not encrypted; --passphrase does that.")


@app.command(epilog="Example: agentrun keys add did:key:z6MktwupdmLXVVqTzCw4i46r4uGyosGXRnR3XjN4Zq7oMMsw -w acme")
def add(
    key: Annotated[
        str, typer.Argument(help="A did:key, or a file with a JWK or a public key in PEM; `-` reads stdin.")
    ],
    agent: AgentOption = None,
    expires: ExpiresOption = None,
    workspace: WorkspaceOption = "default",
    trust: TrustOption = None,
    why: WhyOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Register a public key that somebody else made."""
    text = key if key.startswith("did:") else read_input(Path(key)).decode("utf-8", "replace")
    scope = Scope(tuple(agent or ()), exp=_ends(expires), why=why)
    entry = manage.add(trust_folder(trust), workspace, manage.public_of_text(text), scope)
    if output is Output.JSON:
        as_json({"workspace": workspace, "jwk": entry})
    else:
        agents = ", ".join(entry.get("agents", ())) or "every agent"
        write(f"{entry['kid']} may now sign for {agents} of the workspace {workspace}.")


@app.command("list", epilog="Example: agentrun keys list -w acme")
def list_(
    workspace: WorkspaceOption = "default", trust: TrustOption = None, output: OutputOption = Output.TABLE
) -> None:
    """List the keys of a workspace, and the entries that count as not there, with the reason."""
    jwks = manage.export(trust_folder(trust), workspace)
    registry = registry_of(jwks)
    now = datetime.now(UTC).timestamp()
    rows = [_row(entry, set(registry.keys), now) for entry in jwks["keys"] if isinstance(entry, dict)]
    if output is Output.JSON:
        as_json({"workspace": workspace, "version": registry.version, "keys": rows, "warnings": registry.warnings})
        return
    table(f"{workspace}, version {registry.version}", _COLUMNS, rows)
    for warning in registry.warnings:
        say(warning)


@app.command(
    epilog="Example: agentrun keys revoke kPrK_qmx --compromised-since 2026-05-01T09:00:00Z --why 'laptop stolen'"
)
def revoke(
    kid: Annotated[str, typer.Argument(help=KID)],
    compromised_since: Annotated[
        str | None,
        typer.Option("--compromised-since", help="Somebody else may have had it since then: a time, or `2d` ago."),
    ] = None,
    workspace: WorkspaceOption = "default",
    trust: TrustOption = None,
    why: WhyOption = None,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Revoke a key from now on, or back to when it was compromised. There is no way back."""
    now = datetime.now(UTC).replace(microsecond=0)
    since_then = since(compromised_since, now)
    back = f", and not believed since {since_then.isoformat()}" if since_then else ""
    confirm(f"{kid} will be refused in {workspace} from now on{back}. Go on?", yes=yes)
    entry = manage.revoke(trust_folder(trust), workspace, kid, Revocation(now, since_then, why))
    if output is Output.JSON:
        as_json({"workspace": workspace, "jwk": entry})
    else:
        write(f"{entry['kid']} is revoked in the workspace {workspace}{back}.")


@app.command(epilog="Example: agentrun keys export -w acme > acme.jwks.json")
def export(
    workspace: WorkspaceOption = "default", trust: TrustOption = None, output: OutputOption = Output.JSON
) -> None:
    """Print the JWK Set of a workspace: public keys alone, so it may be given to anyone."""
    jwks = manage.export(trust_folder(trust), workspace)
    if output is Output.JSON:
        as_json(jwks)
    else:
        names = (
            {"kid": entry.get("kid"), "x": entry.get("x"), "status": entry.get("status")} for entry in jwks["keys"]
        )
        table("", {"kid": "kid", "x": "public key", "status": "status"}, list(names))


def _row(entry: dict[str, Any], known: set[str], now: float) -> dict[str, Any]:
    expires = entry.get("exp")
    state = str(entry.get("status"))
    if entry.get("kid") not in known:
        state = "refused"
    elif state == "active" and isinstance(expires, int | float) and expires <= now:
        state = "expired"
    kept = {name: entry.get(name) for name in ("kid", "revoked_at", "compromised_since", "reason")}
    agents = entry.get("agents")
    return kept | {
        "state": state,
        "agents": "every agent" if agents is None else ", ".join(map(str, agents)) or "no agent",
        "expires": None if expires is None else _moment(expires),
    }


def _moment(numeric_date: Any) -> str:
    try:
        return datetime.fromtimestamp(numeric_date, UTC).isoformat()
    except (TypeError, ValueError, OverflowError, OSError):  # beyond the calendar, or no number at all
        return str(numeric_date)


def _ends(text: str | None) -> datetime | None:
    """A moment to come: `90d` or `12w` from now, or a date or time."""
    if text is None:
        return None
    now = datetime.now(UTC)
    if text[:-1].isdigit() and text[-1:] in _DAYS and len(text) < 7:  # noqa: PLR2004 - beyond that there are no dates
        return now + timedelta(days=int(text[:-1]) * _DAYS[text[-1]])
    moment = since(text, now)
    if moment is None or moment <= now:
        raise UsageError(f"{text!r} is not a time to come.", "Try 90d, 52w or 2030-01-01.")
    return moment


def _passphrase(file: Path | None, *, ask: bool) -> bytes | None:
    if file is not None:
        lines = read_input(file).splitlines()
        if not lines or not lines[0]:
            raise UsageError(f"{file} holds no passphrase.", "Put it on the first line.")
        return lines[0]
    if not ask:
        return None
    return str(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True)).encode()

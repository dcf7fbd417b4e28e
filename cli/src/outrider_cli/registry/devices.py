"""`outrider device`: registers, finds, changes and retires devices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from outrider_cli.registry.client import Api, command, fail, show, show_one, when
from outrider_cli.registry.enrolment import print_claim, print_secret
from outrider_cli.registry.imports import import_csv

app = typer.Typer(
    no_args_is_help=True,
    help="""Devices: register, find, change, enrol, disable.

Examples:

  outrider device enrol --tag van                      a claim for one device, with a QR code

  outrider device import fleet.csv --dry-run           ten thousand at once

  outrider device list --presence offline --tag van

  outrider device rotate van-7                         a new secret: sent, confirmed, switched

  outrider device disable van-7                        kicked and refused; nothing is erased
""",
)

Device = Annotated[str, typer.Argument(metavar="DEVICE", help="The device's id.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="Repeatable.")]
Text = str | None


@command(app, "list")
def list_(
    api: Api,
    search: Annotated[Text, typer.Option("--search", "-q", help="Part of id, name or serial number.")] = None,
    tag: Annotated[Text, typer.Option(help="Only with this tag.")] = None,
    type_: Annotated[Text, typer.Option("--type", help="Only of this type.")] = None,
    tier: Annotated[Text, typer.Option(help="Only of this tier.")] = None,
    status: Annotated[Text, typer.Option(help="active, pending or disabled.")] = None,
    presence: Annotated[Text, typer.Option(help="online, offline or unknown.")] = None,
    gateway: Annotated[Text, typer.Option(help="Only behind this gateway.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
) -> None:
    """List devices with presence."""
    rows = list(
        api.pages(
            "/devices",
            limit,
            q=search,
            tag=tag,
            type=type_,
            tier=tier,
            status=status,
            presence=presence,
            gateway=gateway,
        )
    )
    show(
        api,
        rows,
        {
            "device": lambda row: row["id"],
            "presence": lambda row: (row.get("presence") or {}).get("state"),
            "last seen": lambda row: when((row.get("presence") or {}).get("seen_at")),
            "status": lambda row: row["status"],
            "type": lambda row: row["type"],
            "tier": lambda row: row["tier"],
            "tags": lambda row: " ".join(row["tags"]),
            "firmware": lambda row: row["firmware"],
            "name": lambda row: row["name"],
        },
    )
    if len(rows) == limit and not api.as_json:
        typer.echo(f"the first {limit}; --limit shows more", err=True)


@command(app, "show")
def show_device(api: Api, device: Device) -> None:
    """Show a device."""
    show_one(api, api.get(f"/devices/{device}"))


NameOption = Annotated[Text, typer.Option("--name", help="For people.")]
TypeOption = Annotated[Text, typer.Option("--type", help="van, truck, gateway, sensor …")]
TierOption = Annotated[Text, typer.Option("--tier", help="esp32, pi, phone, obd …")]
SerialOption = Annotated[Text, typer.Option("--serial", help='Serial number; "" takes it away.')]
OwnerOption = Annotated[Text, typer.Option("--owner", help="Who answers for it.")]
LocationOption = Annotated[Text, typer.Option("--location", help="Where it stands, in words.")]
GatewayOption = Annotated[Text, typer.Option("--gateway", help='The device that publishes for it; "" for none.')]
LatitudeOption = Annotated[float | None, typer.Option("--latitude", help="Of a device that stands still.")]
LongitudeOption = Annotated[float | None, typer.Option("--longitude", help="Of a device that stands still.")]


def _fields(**given: Any) -> dict[str, Any]:
    """What was given; an empty serial number or gateway takes it away."""
    return {
        key: None if value == "" and key in ("serial", "gateway") else value
        for key, value in given.items()
        if value is not None
    }


@command(app)
def create(
    api: Api,
    device: Device,
    name: NameOption = None,
    type_: TypeOption = None,
    tier: TierOption = None,
    tags: Tags = None,
    serial: SerialOption = None,
    owner: OwnerOption = None,
    location: LocationOption = None,
    gateway: GatewayOption = None,
    latitude: LatitudeOption = None,
    longitude: LongitudeOption = None,
) -> None:
    """Register a device and print its secret, once."""
    body = _fields(
        name=name, type=type_, tier=tier, tags=tags, serial=serial, owner=owner, location=location, gateway=gateway,
        latitude=latitude, longitude=longitude,
    )  # fmt: skip
    made = api.post("/devices", {"id": device, **body})
    if gateway:
        show_one(api, made)
        return
    print_secret(api, api.post(f"/devices/{device}/credentials"))


@command(app)
def edit(
    api: Api,
    device: Device,
    name: NameOption = None,
    type_: TypeOption = None,
    tier: TierOption = None,
    tags: Tags = None,
    serial: SerialOption = None,
    owner: OwnerOption = None,
    location: LocationOption = None,
    gateway: GatewayOption = None,
    latitude: LatitudeOption = None,
    longitude: LongitudeOption = None,
) -> None:
    """Change a device; only what is given. --tag replaces all tags."""
    changes = _fields(
        name=name, type=type_, tier=tier, tags=tags, serial=serial, owner=owner, location=location, gateway=gateway,
        latitude=latitude, longitude=longitude,
    )  # fmt: skip
    if not changes:
        raise typer.BadParameter("name what is to change, such as --name or --tag")
    show_one(api, api.edit(f"/devices/{device}", changes))


@command(app)
def delete(api: Api, device: Device, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Take a device out of the registry. What it sent stays in the ledger; its id can be used again."""
    if not yes:
        typer.confirm(f"Delete {device} from the registry? `device disable` keeps it.", abort=True)
    api.delete(f"/devices/{device}")
    typer.echo(f"{device} deleted")


@command(app)
def disable(api: Api, device: Device) -> None:
    """Throw a device out and refuse it from now on. Nothing is erased."""
    api.post(f"/devices/{device}/disable")
    typer.echo(f"{device} disabled; `outrider device enable {device}` lets it in again")


@command(app)
def enable(api: Api, device: Device) -> None:
    """Let a disabled device in again, with the secret it has."""
    api.post(f"/devices/{device}/enable")
    typer.echo(f"{device} enabled")


@command(app)
def enrol(
    api: Api,
    device: Annotated[
        Text, typer.Argument(metavar="[DEVICE]", help="Id it shall get; else it asks for one or gets one.")
    ] = None,
    serial: Annotated[Text, typer.Option(help="Only the device with this serial number may use the claim.")] = None,
    hours: Annotated[float | None, typer.Option(min=0.01, help="How long the claim is good.")] = None,
    approval: Annotated[bool, typer.Option("--approval", help="Somebody must approve the device.")] = False,
    type_: Annotated[Text, typer.Option("--type", help="Type the device gets.")] = None,
    tier: Annotated[Text, typer.Option(help="Tier the device gets.")] = None,
    tag: Tags = None,
    qr: Annotated[bool, typer.Option("--qr/--no-qr", help="Also as a QR code.")] = True,
) -> None:
    """Make a claim: a token good for one device, and what to put on it."""
    template = {key: value for key, value in {"type": type_, "tier": tier, "tags": tag}.items() if value}
    body = {"device": device, "serial": serial, "hours": hours, "approval": approval, "template": template}
    print_claim(api, api.post("/claims", {key: value for key, value in body.items() if value not in (None, {})}), qr)


@command(app, "import")
def import_(
    api: Api,
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="CSV with a header; `id` is the one column it needs.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, change nothing.")] = False,
    on_existing: Annotated[str, typer.Option(help="skip, update or fail where the device is there already.")] = "skip",
    credentials: Annotated[
        bool, typer.Option("--credentials/--no-credentials", help="Give each new one a secret.")
    ] = True,
    report: Annotated[Path | None, typer.Option(help="Write a CSV with a line a row; holds the secrets.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Leave out what --report says is done.")] = False,
) -> None:
    """Register many devices from a CSV file.

    Columns: id, name, type, tier, tags (separated by blanks or ;), serial, owner, location, latitude, longitude, gateway,
    firmware, hardware.
    """
    import_csv(
        api, file, dry_run=dry_run, on_existing=on_existing, credentials=credentials, report=report, resume=resume
    )


@command(app)
def adopt(
    api: Api, credentials: Annotated[bool, typer.Option("--credentials", help="Give each a secret.")] = False
) -> None:
    """Register every device that the ledger has heard of and the registry has not."""
    adopted = api.post("/devices/adopt", {"credentials": credentials})["adopted"]
    rows = [one if isinstance(one, dict) else {"id": one} for one in adopted]
    if not rows and not api.as_json:
        typer.echo("Every device that the ledger knows is registered.")
        return
    show(api, rows, {"device": lambda row: row["id"], "secret": lambda row: row.get("secret")})


@command(app)
def credentials(api: Api, device: Device) -> None:
    """List a device's credentials, the newest first. Secrets are not stored and cannot be shown."""
    found = api.get(f"/devices/{device}/credentials")
    show(
        api,
        found if isinstance(found, list) else found["items"],
        {
            "generation": lambda row: row["generation"],
            "kind": lambda row: row["kind"],
            "state": lambda row: row["state"],
            "key": lambda row: row["key_id"],
            "issued": lambda row: when(row["issued_at"]),
            "rotates": lambda row: when(row["rotates_at"]),
            "works until": lambda row: when(row["grace_until"]),
            "last used": lambda row: when(row["last_used_at"]),
        },
    )


@command(app)
def rotate(
    api: Api,
    device: Annotated[Text, typer.Argument(metavar="[DEVICE]", help="The device's id.")] = None,
    now: Annotated[
        bool, typer.Option("--now", help="Switch at once and print the secret, for somebody at the device.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Every active device of the tenant, with secrets.")] = False,
) -> None:
    """Give a device a new secret: it is sent, the device confirms, the broker switches."""
    if (device is None) == (not everything) or (everything and now):
        raise typer.BadParameter("name one DEVICE, or --all without --now")
    if device is not None:
        answer = api.post(f"/devices/{device}/credentials/rotate", {"now": now})
        if now:
            print_secret(api, answer)
        else:
            typer.echo(
                f"{device}: generation {answer['generation']} goes out when it is online; the old one works meanwhile"
            )
        return
    begun = 0
    with typer.progressbar(list(api.pages("/devices", status="active")), label="rotating") as bar:
        for row in bar:
            # Who has a certificate only, or nothing yet, has no secret to rotate.
            if not row["gateway"] and api.post_if_possible(f"/devices/{row['id']}/credentials/rotate", {"now": False}):
                begun += 1
    typer.echo(f"{begun} devices get a new secret when they are online")


@command(app)
def revoke(
    api: Api,
    device: Device,
    generation: Annotated[int | None, typer.Option(min=1, help="Only this one; by default all.")] = None,
) -> None:
    """End a device's credentials at once; it needs a new claim or `device rotate --now`."""
    api.post(f"/devices/{device}/credentials/revoke", {} if generation is None else {"generation": generation})
    typer.echo(f"{device}: revoked")


@command(app)
def certificate(
    api: Api,
    device: Device,
    csr: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="Certificate signing request (PEM); CN is the device.")
    ],
    out: Annotated[Path, typer.Option(help="Where the certificate is written (PEM).")],
) -> None:
    """Sign a device's certificate request, for the listener with client certificates."""
    answer = api.post(f"/devices/{device}/certificate", {"csr": csr.read_text()})
    try:
        out.write_text(answer["certificate"] + answer.get("chain", ""))
    except OSError as error:
        fail(f"{out}: {error}")
    typer.echo(f"{out}: serial {answer['serial']}, good until {when(answer['expires_at'])}")

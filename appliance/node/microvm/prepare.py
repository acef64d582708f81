"""What a host needs before its first pod: the guest image, the accelerator, the templates. And what is there of it."""

from __future__ import annotations

import concurrent.futures
import os

from . import accelerator, image, qemu, settings, store, template
from .image import Image, Report
from .sandboxes import all_sandboxes
from .settings import RuntimeFailure, Settings

KVM_ANSWERS_WITHIN_S = 3
"""A probe that has not answered by then will most likely say tcg, so the template is begun meanwhile."""


def missing(configured: Settings) -> list[str]:
    """Return which of image, probe and template are not current, in the order in which they are made."""
    guest_image = image.current()
    if guest_image is None or not image.is_current(configured):
        return ["image", "probe", "template"]
    chosen = accelerator.known(configured, guest_image)
    if chosen is None:
        return ["probe", "template"]
    found = [template.find(guest_image, size, chosen, qemu.identity())[0] for size in configured.templates()]
    return [] if all(found) else ["template"]


def prepare(parts: list[str], check: bool, refresh: bool, verify: bool, report: Report) -> dict:
    """Make those of `parts` that are not current; with `check`, only tell.

    `refresh` makes a new image in any case; `verify` reads the templates, and one that is damaged is made anew.
    Returns {"changed": bool, "made": [...]}. Raises RuntimeFailure when one cannot be made.
    """
    configured = settings.load()
    if verify:
        _verify(configured, report)

    def wanted() -> list[str]:
        anew = refresh and "image" in parts
        return [part for part in (("image", "probe", "template") if anew else missing(configured)) if part in parts]

    made = wanted()
    if made and not check:
        with store.making("prepare"):
            if made := wanted():  # what another maker has made meanwhile is current now
                _make(configured, parts, refresh, report)
    return {"changed": bool(made), "made": made}


def _verify(configured: Settings, report: Report) -> None:
    guest_image = image.current()
    chosen = accelerator.known(configured, guest_image)
    for size in configured.templates() if guest_image and chosen else []:
        if template.drop_damaged(guest_image, size, chosen, qemu.identity()):
            report(f"template {size.name}: its memory is not what was written; is the disk failing?")


def _make(configured: Settings, parts: list[str], refresh: bool, report: Report) -> None:
    guest_image = image.build(configured, report, refresh) if "image" in parts else image.current()
    if guest_image is None:
        raise RuntimeFailure(f"there is no guest image below {image.IMAGES}; `casemate-microvm image` makes it")
    if "probe" not in parts and "template" not in parts:
        return
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        probing = pool.submit(accelerator.probe, configured, guest_image, report)
        failure = _begin_with_tcg(configured, guest_image, probing, report) if "template" in parts else None
        chosen = probing.result()
    if "template" in parts:
        if failure and chosen == "tcg":
            raise failure
        keep = _templates(configured, guest_image, chosen, report)
        template.prune(keep)


def _begin_with_tcg(
    configured: Settings, guest_image: Image, probing: concurrent.futures.Future, report: Report
) -> Exception | None:
    """Make tcg's templates while the probe takes its time; return what failed, which matters only if tcg it is."""
    if os.cpu_count() == 1:
        return None  # one processor has nothing to spare for a guess
    try:
        probing.result(timeout=KVM_ANSWERS_WITHIN_S)
    except concurrent.futures.TimeoutError:
        try:
            _templates(configured, guest_image, "tcg", report)
        except (RuntimeFailure, OSError) as error:
            return error
    return None


def hold() -> None:
    """Have the templates that fit now stay, whatever is made besides, until this is called again."""
    configured, guest_image = settings.load(), image.current()
    chosen = accelerator.known(configured, guest_image)
    if guest_image and chosen:
        template.hold(_names(configured, guest_image, chosen))


def _names(configured: Settings, guest_image: Image, chosen: str) -> set[str]:
    identity = qemu.identity()
    return {template.key(guest_image, size, chosen, identity) for size in configured.templates()}


def _templates(configured: Settings, guest_image: Image, chosen: str, report: Report) -> set[str]:
    """Make all templates, as many at a time as there are processors; return their names."""
    identity, sizes = qemu.identity(), configured.templates()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(template.make, configured, guest_image, s, chosen, identity, report) for s in sizes]
    for job in jobs:
        job.result()
    return _names(configured, guest_image, chosen)


def status() -> dict:
    """Return what is there: {"current", "missing", "image", "accelerator", "templates", "sandboxes"}."""
    configured = settings.load()
    guest_image = image.current()
    chosen = accelerator.known(configured, guest_image)
    templates = []
    for size in configured.templates() if guest_image and chosen else []:
        found, why_not = template.find(guest_image, size, chosen, qemu.identity())
        templates.append({"size": size.name, "ready": bool(found), "why_not": why_not})
    sandboxes = []
    for sandbox in all_sandboxes():
        try:
            sandboxes.append({"id": sandbox.id, **sandbox.info(), "outdated": sandbox.is_outdated()})
        except RuntimeFailure:
            sandboxes.append({"id": sandbox.id, "guest_kernel": None})
    not_there = missing(configured)
    return {
        "current": not not_there,
        "missing": not_there,
        "image": guest_image and {"key": guest_image.key, "guest_kernel": guest_image.kernel},
        "accelerator": chosen,
        "evidence": (store.read_json(accelerator.ANSWER) or {}).get("evidence"),
        "sizes": [size._asdict() for size in configured.sizes],
        "templates": templates,
        "sandboxes": sandboxes,
    }

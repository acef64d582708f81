"""What an inventory says of backups, beyond what each variable's type and form say."""

import re
from collections.abc import Callable, Iterator

from appliance.schema import Finding

DOCUMENTED = "roles/backup/defaults/main.yml"
_KINDS = ("/", "sftp:", "s3:", "rest:")


def check_backups(value: Callable[[str], object]) -> Iterator[tuple[str, Finding]]:
    """The variable and what is wrong with it; `value` gives a variable's value, or its default, by name."""
    repository = value("backup_repository")
    if not repository:
        return
    if isinstance(repository, str) and not repository.startswith(_KINDS):
        expected = "/directory, sftp:user@server:/directory, s3:https://server/bucket or rest:https://server/"
        yield "backup_repository", Finding((), repository, "is no repository that hosts can reach", expected)
    if isinstance(repository, str) and re.search(r"://[^/@]*:[^/@]*@", repository):
        expected = "the address without it, and RESTIC_REST_USERNAME and RESTIC_REST_PASSWORD in backup_environment"
        yield "backup_repository", Finding((), "********", "carries a password", expected, secret=True)
    given = [name for name in ("backup_password", "backup_password_file") if value(name) not in ("", None)]
    if not given:
        expected = "the repository's password, by ansible-vault; or backup_password_file"
        yield "backup_password", Finding((), None, "is needed with backup_repository", expected)
    if len(given) == 2:
        yield "backup_password_file", Finding((), None, "is given beside backup_password", "one of the two")

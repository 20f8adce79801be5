"""A keyring in memory, with the limits of the one that has the most."""

from __future__ import annotations

from keyring.backend import KeyringBackend
from keyring.errors import PasswordDeleteError, PasswordSetError

#: Octets that Windows keeps in one entry, two for each letter.
MOST = 2560


class Drawer(KeyringBackend):
    """Keeps what it gets in ``kept``, by service and user."""

    priority = 1

    def __init__(self):
        super().__init__()
        self.kept = {}

    def get_password(self, service, username):
        return self.kept.get((service, username))

    def set_password(self, service, username, password):
        if len(password) * 2 > MOST:
            raise PasswordSetError("the entry is too long")
        self.kept[service, username] = password

    def delete_password(self, service, username):
        if self.kept.pop((service, username), None) is None:
            raise PasswordDeleteError("there is none")

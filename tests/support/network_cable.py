# SPDX-License-Identifier: Apache-2.0
"""Two network namespaces joined by a cable: two machines, as far as the network goes. Only root can make them."""
import os
import subprocess


class NoNamespaces(Exception):
    """None can be made here."""


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True)


class Cable:
    """`names` are two namespaces, of the addresses 10.83.61.1 and 10.83.61.2."""

    def __enter__(self):
        self.names = [f"halftone{os.getpid()}{end}" for end in "ab"]
        if any(ip("netns", "add", name).returncode for name in self.names):
            self.__exit__()
            raise NoNamespaces("no network namespaces can be made here")
        links = [f"ht{os.getpid()}{end}" for end in "ab"]
        if ip("link", "add", links[0], "type", "veth", "peer", "name", links[1]).returncode:
            self.__exit__()
            raise NoNamespaces("no cable between network namespaces can be made here")
        for number, (name, link) in enumerate(zip(self.names, links), 1):
            for words in (f"link set {link} netns {name}", f"-n {name} addr add 10.83.61.{number}/24 dev {link}",
                          f"-n {name} link set {link} up", f"-n {name} link set lo up"):
                assert ip(*words.split()).returncode == 0, words
        return self

    def __exit__(self, *_):
        for name in self.names:
            ip("netns", "del", name)

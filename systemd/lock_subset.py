"""Print the part of requirements.lock that the named packages need, hashes included.

One lock holds everything; `make install` takes the runtime from it without the development tools, and the build
backend without either. Who needs what stands in the `# via` comments that pip-compile writes.
"""  # noqa: INP001 - a script of `make install`, no package

import re
import sys
import tomllib
from pathlib import Path


def entries(lock: str) -> dict[str, tuple[str, set[str]]]:
    """Name → (its lines, the packages that need it)."""
    found = {}
    for entry in re.split(r"\n(?=[a-z0-9])", lock):
        if pinned := re.match(r"([a-z0-9-]+)==", entry):
            via = entry.partition("# via")[2]
            found[pinned[1]] = (entry, set(re.findall(r"[a-z0-9-]+", re.sub(r"\(.*?\)", "", via))))
    return found


def subset(lock: str, roots: set[str]) -> str:
    """The lines of `roots` and of whatever they need."""
    locked = entries(lock)
    if missing := roots - locked.keys():
        raise SystemExit(f"{', '.join(sorted(missing))} not in the lock; run make lock")
    wanted, grown = set[str](), roots
    while wanted != grown:
        wanted, grown = grown, grown | {name for name, (_, via) in locked.items() if via & grown}
    return "\n".join(locked[name][0] for name in sorted(wanted)) + "\n"


def normal(requirement: str) -> str:
    """The name alone, as the lock spells it."""
    return re.sub(r"[._]", "-", re.split(r"[^A-Za-z0-9._-]", requirement)[0]).lower()


if __name__ == "__main__":
    project = tomllib.loads(Path("pyproject.toml").read_text())
    needs = {"runtime": project["project"]["dependencies"], "build": project["build-system"]["requires"]}[sys.argv[1]]
    sys.stdout.write(subset(Path("requirements.lock").read_text(), {normal(need) for need in needs}))

"""Reads what callgrind leaves: who spent how much, alone and with those it called."""

import re
from collections import Counter

NAME = re.compile(r"\((\d+)\)(?: (.*))?")


class Profile:
    """Instructions by function, and by (caller, callee)."""

    def __init__(self, path):
        self.alone, self.calls, self.names = Counter(), Counter(), {}
        function = callee = None
        # The format: https://valgrind.org/docs/manual/cl-format.html
        with open(path, errors="replace") as lines:
            for line in lines:
                if line.startswith("fn="):
                    function = self.name(line[3:])
                elif line.startswith("cfn="):
                    callee = self.name(line[4:])
                elif line[:1].isdigit() or line[:1] in "+-*":
                    cost = int(line.split()[1])
                    if callee:
                        self.calls[function, callee] += cost
                        callee = None
                    else:
                        self.alone[function] += cost

    def name(self, text):
        number, name = NAME.match(text.strip()).groups()
        if name:
            # Recursion is marked by 'N; generic arguments tell too much.
            self.names[number] = re.sub(r"'\d+$", "", name)
        return self.names[number]

    def together(self):
        """Recursion counts once."""
        total = Counter(self.alone)
        for (caller, callee), cost in self.calls.items():
            if caller != callee:
                total[caller] += cost
        return total


def compare(few, many, number, top=40):
    """What `number` more calls cost each function, as text."""
    few, many = Profile(few), Profile(many)
    out = [f"Instructions per call, from the difference of two runs: {(total(many) - total(few)) / number:.0f} in all"]

    def table(title, before, after, top=top):
        out.append(f"\n=== {title}")
        more = Counter({key: (cost - before[key]) / number for key, cost in after.items()})
        for key, cost in more.most_common(top):
            name = key if isinstance(key, str) else key[0]
            out.append(f"{cost:10.0f}  {name[:180]}")

    table("alone", few.alone, many.alone)
    table("with those it called (callers of all of it stand first)", few.together(), many.together(), 2 * top)
    for word in ("memcpy", "malloc", "free", "compress"):
        callers = [
            Counter({key: cost for key, cost in run.calls.items() if is_named(key[1], word)}) for run in (few, many)
        ]
        table(f"callers of {word}", *callers, 20)
    return "\n".join(out) + "\n"


def total(profile):
    return sum(profile.alone.values())


def is_named(function, word):
    return word in function if word in ("memcpy", "compress") else function == word

"""The sections of benches/RESULTS.md that are not written anew with every run of the others."""
import re


def find(text, name):
    """The section of this name with its heading; empty where there is none."""
    found = re.search(rf"^## {re.escape(name)}\n.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found[0] if found else ""


def put(text, name, section):
    """The text with this section in place of the one there was, or at its end."""
    old = find(text, name)
    section = section.rstrip() + "\n"
    if old:
        return text.replace(old, section + ("\n" if text.split(old, 1)[1] else ""))
    return text.rstrip() + "\n\n" + section

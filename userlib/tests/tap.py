# SPDX-License-Identifier: LGPL-2.1-or-later OR MIT
"""Prints the results of a test in TAP, for the tests that are in Python."""

results = failures = 0


def check(holds, what, *seen):
    """Prints one result, and after a failure the values that were seen."""
    global results, failures
    results += 1
    if not holds:
        failures += 1
        for thing in seen:
            print('# seen:', repr(thing))
    print(f'{"ok" if holds else "not ok"} {results} {what}', flush=True)


def skip(what, why):
    """Prints that a result can't be had here."""
    global results
    results += 1
    print(f'ok {results} {what} # SKIP {why}', flush=True)


def end():
    """Prints the plan. Returns the exit status of the test."""
    print(f'1..{results}')
    return 1 if failures else 0

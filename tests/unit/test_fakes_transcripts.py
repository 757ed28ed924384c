"""The reading of pages that the test of the first steps rests on: it must not find what was not printed."""

from fakes.transcripts import Shown, missing, plain, transcripts

PAGE = """
Text with `$ no command`.

```
$ k8s-ovs tenant list
NAMESPACE  NETID  ERROR
red        11     -

$ true
$ k8s-ovs lab up
  an agent on each node
…
```

```
no command, so no transcript
```
"""


def test_commands_with_their_output_in_the_pages_order() -> None:
    assert transcripts(PAGE) == [
        Shown("k8s-ovs tenant list", ("NAMESPACE  NETID  ERROR", "red        11     -")),
        Shown("true", ()),
        Shown("k8s-ovs lab up", ("  an agent on each node",)),
    ]


def test_numbers_and_widths_differ_from_run_to_run() -> None:
    shown = Shown("x", ("red   11  3m30s", "complete after 0.2 s"))
    assert missing(shown, "red 4711 45s\nmore\ncomplete after 13 s\n") == []


def test_names_and_addresses_do_not() -> None:
    shown = Shown("x", ("web on node3 has 10.128.8.2/22", "all as expected"))
    assert missing(shown, "web on node2 has 10.128.8.2/22\n") == list(shown.output)
    assert missing(shown, "web on node3 has 10.128.8.3/22\nall as expected\n") == [shown.output[0]]
    assert plain("http://10.96.0.2:4711/  v1.32.0-lab node1") == "http://10.96.0.2:N/ v1.32.0-lab node1"

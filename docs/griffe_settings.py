"""Shows in the API reference what a reader sees and griffe does not.

The settings of nodes and flows are keywords whose defaults are class attributes: they become parameters of the signature.
And griffe knows a section "Examples", where ours are called "Example".
"""

import sys

import griffe

import pocketflow_throttled


class Settings(griffe.Extension):
    """Rewrite signatures and docstrings before they are parsed."""

    def on_instance(self, *, obj, **_):
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("Example:\n", "Examples:\n")

    def on_class_members(self, *, cls, **_):
        real = getattr(pocketflow_throttled, cls.name, None)
        init = cls.members.get("__init__")
        if real is None or init is None or "settings" not in init.parameters:
            return
        typed = str(init.parameters["settings"].annotation).removeprefix("Unpack[").removesuffix("]")
        keywords = getattr(sys.modules[real.__module__], typed).__annotations__
        given = [parameter for parameter in init.parameters if parameter.name != "settings"]
        init.parameters = griffe.Parameters(
            *given,
            *(
                griffe.Parameter(
                    name,
                    annotation=kind.__forward_arg__,
                    kind=griffe.ParameterKind.keyword_only,
                    default=repr(getattr(real, name)),
                )
                for name, kind in keywords.items()
            ),
        )

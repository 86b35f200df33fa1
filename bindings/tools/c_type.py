"""The types of the C interface, as clang spells them, taken apart.

parse() gives one of

    ("name", name)
    ("array", element, count)
    ("pointer", target, constant)     constant: what it points to is const
    ("function", result, parameters)  a pointer to a function
"""


def split_parameters(text):
    """The parts between commas that are in no parentheses."""
    parts, depth, begin = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            parts.append(text[begin:i])
            begin = i + 1
    return [part.strip() for part in [*parts, text[begin:]]]


def parse(text):
    text = text.strip()
    if text.endswith("*const"):
        text = text.removesuffix("const")
    if "(*)(" in text:
        result, parameters = text.split("(*)(", 1)
        return ("function", parse(result),
                [parse(part) for part in
                 split_parameters(parameters.removesuffix(")"))])
    if text.endswith("]"):
        element, count = text.removesuffix("]").rsplit("[", 1)
        return ("array", parse(element), int(count))
    if text.endswith("*"):
        target = text.removesuffix("*").strip()
        constant = target.endswith("*const") or (
            target.startswith("const ") and not target.endswith("*"))
        return ("pointer", parse(target), constant)
    return ("name", text.removeprefix("const "))

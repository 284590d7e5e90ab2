"""Butterfly layers, which both flows of the reference write alike."""

from .errors import ImportRefused


def butterfly(source, prefix, size, may_share):
    """(fields of the layer, tensors); (None, {}) where a layer has no factors. The order is read from the shapes.

    `size` is the number of values that the layer acts on; `may_share`: whether the flow knows shared weights.
    """
    shapes, tensors = [], {}
    while f"{prefix}model.{len(shapes)}.w1" in source:
        name = f"{prefix}model.{len(shapes)}.w1"
        shape = source.shape(name)
        level = shape[0].bit_length() - 1 if shape and shape[0] else 0
        pairs = size >> (level + 1)
        if not (
            len(shape) == 4
            and shape[0] == 1 << level
            and shape[1] == shape[3] == 2
            and size % (2 << level) == 0
            and shape[2] in ((1, pairs) if may_share else (pairs,))
        ):
            raise ImportRefused(f"FILE: {name} has shape {list(shape)}, no factor of a butterfly on {size} values")
        tensors[f"factors.{len(shapes)}"] = source.take(name, *shape)
        shapes.append(shape)
    if not shapes:
        return None, {}
    order = [shape[0].bit_length() - 1 for shape in shapes]
    count = max(order) + 1
    shared = may_share and all(shape[2] == 1 for shape in shapes)
    if not shared and any(shape[2] != size >> (level + 1) for shape, level in zip(shapes, order)):
        raise ImportRefused(f"FILE: {prefix}model: some factors share their weights, others do not")
    up = list(range(count))
    fields = {"kind": "butterfly", "factors": count, "shared": shared}
    if order == up + up[::-1]:
        fields["bi_direction"] = True
    elif order in (up, up[::-1]):
        fields["order"] = "widest_first" if order == up else "narrowest_first"
    else:
        raise ImportRefused(f"FILE: {prefix}model: factors of levels {order}, in no order of the reference")
    return fields, tensors

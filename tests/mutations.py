"""Damage to bytes, drawn by Hypothesis."""

from hypothesis import strategies as st


def mutations(content):
    """Flip, zero, cut out or insert some bytes anywhere in the content."""

    def mutate(edits):
        mutant = bytearray(content)
        for kind, position, value, length in edits:
            at = position % len(mutant)
            if kind == "flip":
                mutant[at] ^= value
            elif kind == "zero":
                mutant[at : at + length] = bytes(len(mutant[at : at + length]))
            elif kind == "cut" and len(mutant) > length:
                del mutant[at : at + length]
            else:
                mutant[at:at] = bytes([value]) * length
        return bytes(mutant)

    edit = st.tuples(
        st.sampled_from(["flip", "zero", "cut", "insert"]),
        st.integers(0, len(content) - 1),
        st.integers(1, 255),
        st.integers(1, 64),
    )
    return st.lists(edit, min_size=1, max_size=3).map(mutate)

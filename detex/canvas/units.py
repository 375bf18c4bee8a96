"""Amounts as a person would say them."""


def duration(seconds: float) -> str:
    """ "45 s", "12 min", "1 h 07 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def gigabytes(count: float) -> str:
    """Of so many bytes: "6.1 GB"."""
    return f"{count / 2**30:.1f} GB"


def in_seconds(seconds: float) -> str:
    """Of one step or picture: "0.021 s", "1.3 s", "240 s"."""
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"

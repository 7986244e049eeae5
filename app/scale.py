"""The scale of images: black is 0, white is 1, and a noise level is a standard deviation on it."""

SAME = 0.05  # relative difference of noise levels that count as one: 25/255 and 0.1
FAR = 16  # times white, or white times, where images of [0, 255] or of counts were meant to be on [0, 1]


def between(level: float, low: float, high: float) -> bool:
    """Tell whether a noise level lies between two, or is the same as one of them."""
    return low * (1 - SAME) <= level <= high * (1 + SAME)


def brightness_fault(brightest: float) -> str:
    """Return what is wrong with the scale of an image, of whose pixels this is the largest; "" where nothing is."""
    if 1 / FAR <= brightest <= FAR:
        return ""
    return f"its brightest pixel is {brightest:.3g} times white"


def level_fault(noise_level: float, white: float = 1.0) -> str:
    """Return what is wrong with a noise level above white, which was meant for another scale; "" where nothing is."""
    if not noise_level > white:
        return ""
    return f"{noise_level:g} is {noise_level / white:g} times white; did you mean {noise_level:g}/255?"

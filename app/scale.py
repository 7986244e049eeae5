"""The scale of images: black is 0, white is 1, and a noise level is a standard deviation on it."""

FAR = 16  # times white, or white times, where images of [0, 255] or of counts were meant to be on [0, 1]


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

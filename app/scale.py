"""The scale of images: black is 0, white is 1, and a noise level is a standard deviation on it."""


def level_fault(noise_level: float, white: float = 1.0) -> str:
    """Return what is wrong with a noise level above white, which was meant for another scale; "" where nothing is."""
    if not noise_level > white:
        return ""
    return f"{noise_level:g} is {noise_level / white:g} times white; did you mean {noise_level:g}/255?"

"""The same function as `videopoet sample frame-interpolation`, as a script."""

from videopoet.commands.sample import script

if __name__ == "__main__":
    script("frame-interpolation")

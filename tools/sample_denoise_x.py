"""The same function as `videopoet sample denoise-x`, as a script."""

from videopoet.commands.sample import script

if __name__ == "__main__":
    script("denoise-x")

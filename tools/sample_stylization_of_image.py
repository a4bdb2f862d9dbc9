"""The same function as `videopoet sample stylization-of-image`, as a script."""

from videopoet.commands.sample import script

if __name__ == "__main__":
    script("stylization-of-image")

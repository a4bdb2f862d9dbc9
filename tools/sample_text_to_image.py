"""The same function as `videopoet sample text-to-image`, as a script."""

from videopoet.commands.sample import script

if __name__ == "__main__":
    script("text-to-image")

"""The same function as `videopoet sample audio-to-image`, as a script."""

from videopoet.commands.sample import script

if __name__ == "__main__":
    script("audio-to-image")

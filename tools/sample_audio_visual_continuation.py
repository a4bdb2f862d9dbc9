"""The same function as `videopoet sample audio-visual-continuation`, as a script."""

from videopoet.commands.sample import script

if __name__ == "__main__":
    script("audio-visual-continuation")

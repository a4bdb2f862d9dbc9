"""The same function as `videopoet sample long-video`, as a script."""

from videopoet.commands.long_video import script

if __name__ == "__main__":
    script()

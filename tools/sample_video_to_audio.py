"""The same function as `videopoet sample video-to-audio`, as a script."""

from videopoet.commands.sample import script

if __name__ == "__main__":
    script("video-to-audio")

"""The same function as `videopoet sample outpainting-horizontal`, as a script."""

from videopoet.commands.sample import script

if __name__ == "__main__":
    script("outpainting-horizontal")

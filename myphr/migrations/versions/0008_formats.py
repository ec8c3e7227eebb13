"""Formats are named as elsewhere: HEIF, not one of its brands

Revision: 0008, after 0007
"""

from alembic import op

revision = '0008'
down_revision = '0007'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("UPDATE item SET format = 'heif' WHERE format = 'heic'")


def downgrade() -> None:
    op.execute("UPDATE item SET format = 'heic' WHERE format = 'heif'")

"""One index of what a record holds by content, for two that SQLite chose between by chance

Revision: 0027, after 0026
"""

from alembic import op

revision = '0027'
down_revision = '0026'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index('ix_item_content', 'item', ['account_id', 'content_key'], unique=False)
    op.drop_index('ix_item_content_key', table_name='item')
    op.drop_index('ix_item_account_id', table_name='item')


def downgrade() -> None:
    op.create_index('ix_item_account_id', 'item', ['account_id'], unique=False)
    op.create_index('ix_item_content_key', 'item', ['content_key'], unique=False)
    op.drop_index('ix_item_content', table_name='item')
